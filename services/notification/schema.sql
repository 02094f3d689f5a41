-- The copy of who can be written to, from user.*.
create table contact (
  user_id text primary key,
  email text,
  -- 0: only what has to be said is said.
  wants_news bigint not null
);

-- What was sent. The key makes it once for each subject (an order, else an account or a cart), step and channel.
create table mail (
  about text not null,
  step text not null,
  channel text not null,
  notification_id text not null,
  order_id text,
  user_id text,
  recipient text not null,
  subject text not null,
  body text not null,
  -- Null: it was sent; otherwise why not.
  failure text,
  at bigint not null,
  primary key (about, step, channel)
);
create unique index mail_notification_id on mail (notification_id);
create index mail_user_id on mail (user_id, notification_id);
