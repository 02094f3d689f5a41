-- One row for each order, for lists and counts; the order itself is a stream (order.ts). `status` and `stage` are copies
-- of what follows from it, changed in the same transaction. What is personal stands here and not in the stream, so that
-- it can be forgotten.
create table order_row (
  order_id text primary key,
  customer_id text,
  status text not null,
  stage text not null check (stage in ('open', 'delivered', 'completed', 'cancelled')),
  email text,
  -- JSON; null where none was given, or where it is forgotten.
  address text,
  -- 1: the account is gone. The address goes too as soon as the order is not open any more.
  forgotten bigint not null
);
create index order_row_of_customer on order_row (customer_id, order_id);
-- The stage stands last so that counting reads this index alone.
create index order_row_by_status on order_row (status, order_id, stage);

-- Orders that T9 found standing still.
create table order_stalled (
  order_id text primary key,
  since bigint not null
);

-- The copy of what customers were sent, from notification.sent.
create table order_notification (
  order_id text not null,
  notification_id text not null,
  step text not null,
  channel text not null,
  subject text not null,
  sent_at bigint not null,
  primary key (order_id, notification_id)
);

-- The copy of the catalogue, from product.*: what is for sale, and at which price.
create table product (
  sku text primary key,
  name text not null,
  price_pence bigint not null,
  discontinued bigint not null
);

-- The copy of what accounts say of how to reach their holders, from user.*.
create table customer (
  user_id text primary key,
  email text,
  -- JSON: where parcels go unless an order says otherwise.
  address text,
  -- 1: the account is gone, and nothing that comes late brings it back.
  deleted bigint not null
);
