-- One row for each order that was confirmed, or called off before it could be sent.
create table fulfilment (
  order_id text primary key,
  customer_id text,
  email text,
  -- JSON; null where none was given, or where the customer is gone.
  address text,
  placed_at bigint not null,
  confirmed_at bigint not null,
  status text not null check (status in ('waiting', 'packed', 'partly_sent', 'sent', 'delivered', 'cancelled')),
  -- JSON: what was bought. Never changes.
  lines text not null,
  -- JSON: the parcels and how far they are.
  parcels text not null,
  -- JSON: line number → units that were asked back.
  asked_back text not null,
  delivered_at bigint,
  -- 1: the customer's account is gone; the address goes too as soon as nothing needs it.
  forget bigint not null,
  -- Grows with every change; whoever changes the row names the version that the change was decided on.
  version bigint not null
);
create index fulfilment_of_customer on fulfilment (customer_id, order_id);

-- Parcels that wait for a person's decision.
create table shipment_problem (
  shipment_id text primary key,
  order_id text not null,
  kind text not null,
  since bigint not null
);
create index shipment_problem_of_order on shipment_problem (order_id);

create table return_case (
  return_id text primary key,
  order_id text not null,
  customer_id text,
  state text not null check (state in ('requested', 'approved', 'rejected', 'received', 'closed')),
  outcome text,
  -- JSON: lines of the order with quantity, price paid and, once received, whether they go back on the shelf.
  lines text not null,
  refund_pence bigint not null,
  reason text,
  requested_at bigint not null,
  requested_by text,
  changed_at bigint not null
);
create index return_case_of_customer on return_case (customer_id, return_id);
create index return_case_of_order on return_case (order_id, return_id);
create index return_case_by_state on return_case (state, return_id);
