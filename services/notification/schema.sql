-- The copy of who there is, from user.*, and what each wants to be told.
create table recipient (
  user_id text primary key,
  email text,
  name text,
  -- 0: only what must be told.
  email_on bigint not null,
  -- 0: preferences were set before the account was heard of.
  known bigint not null
);

-- What people were told, or could not be told. I6: once for each order (or account, or cart), step and channel.
create table notification (
  notification_id text primary key,
  about text not null,
  step text not null,
  channel text not null,
  state text not null check (state in ('sent', 'failed')),
  recipient text not null,
  user_id text,
  order_id text,
  subject text not null,
  -- Why it failed.
  reason text,
  attempts bigint not null,
  at bigint not null
);
create unique index notification_once on notification (about, step, channel);
create index notification_of_user on notification (user_id, notification_id);

-- Belongs to the simulated mail server: the mails that it took.
create table mail_sent (
  message_id text primary key,
  recipient text not null,
  subject text not null,
  body text not null,
  sent_at bigint not null
);
