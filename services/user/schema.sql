-- Accounts. A deleted one keeps its id and its dates and nothing personal, so that late events do not bring it back.
create table account (
  user_id text primary key,
  email text,
  -- The e-mail as sign-in compares it; null: nobody can sign in (a merchant's customer, a deleted account).
  sign_in_email text,
  name text,
  country text,
  roles text not null,
  -- JSON list, the default address first.
  addresses text not null,
  password_hash text,
  version bigint not null,
  registered_at bigint not null,
  registered_by text,
  -- The number under which the merchant in registered_by knows this customer.
  external_reference text,
  deleted_at bigint
);
create unique index account_sign_in_email on account (sign_in_email);
create unique index account_external_reference on account (registered_by, external_reference);

-- Wrong passwords, by a digest of the e-mail that was typed, whether it has an account or not.
create table sign_in_failure (
  email_digest text primary key,
  failures bigint not null,
  failed_at bigint not null
);
create index sign_in_failure_failed_at on sign_in_failure (failed_at);

-- The copy of each customer's orders, from order.* events. progress only grows: see history.ts.
create table order_history (
  user_id text not null,
  order_id text not null,
  progress bigint not null,
  placed_at bigint,
  line_count bigint,
  total_pence bigint,
  refunded_pence bigint not null,
  changed_at bigint not null,
  primary key (user_id, order_id)
);

-- The copy of what was sent to whom, from notification.sent.
create table sent_message (
  user_id text not null,
  notification_id text not null,
  order_id text,
  step text not null,
  channel text not null,
  recipient text not null,
  subject text not null,
  sent_at bigint not null,
  primary key (user_id, notification_id)
);
