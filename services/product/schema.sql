-- The catalogue. A product is never deleted: orders and returns of years ago name it.
create table product (
  sku text primary key,
  name text not null,
  description text,
  category text,
  -- JSON object of texts: what else the merchant says about it.
  attributes text not null,
  price_pence bigint not null,
  discontinued bigint not null,
  merchant_id text not null,
  version bigint not null,
  created_at bigint not null,
  changed_at bigint not null,
  -- What a search looks through: lower case, without accents.
  search_text text not null
);

-- The copy of who there is and what they may do, from user.*. Nothing personal is in it.
create table editor (
  user_id text primary key,
  roles text not null,
  -- When the roles were said to be these; an older message changes nothing.
  roles_at bigint not null,
  deleted bigint not null
);
