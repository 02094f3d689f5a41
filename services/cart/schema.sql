-- Carts: one row each, the lines as JSON, because a cart is always read and written whole.
create table cart (
  cart_id text primary key,
  -- Null: a guest's; whoever knows its id may use it.
  customer_id text,
  -- The customer while the cart is open: one open cart each.
  open_customer_id text,
  -- Where a guest wants to be reminded.
  email text,
  -- [{ sku, quantity }]; prices are read when they are needed.
  lines text not null,
  state text not null check (state in ('open', 'checked_out', 'merged')),
  order_id text,
  merged_into text,
  version bigint not null,
  reminded_at bigint,
  changed_at bigint not null
);
create unique index cart_open_customer_id on cart (open_customer_id);
create index cart_customer_id on cart (customer_id);

-- The copy of what is sold, from product.* (name, price) and inventory.level_changed (availability), each with the time
-- at which it was said: an older message changes nothing.
create table ware (
  sku text primary key,
  name text,
  name_at bigint,
  unit_pence bigint,
  unit_pence_at bigint,
  discontinued bigint not null,
  availability text,
  available bigint,
  availability_at bigint
);
