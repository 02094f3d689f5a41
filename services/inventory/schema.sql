-- One row for each product that exists. I3: on_hand = available + held + allocated = the sum of its stock_ledger rows.
CREATE TABLE stock (
  sku TEXT PRIMARY KEY,
  on_hand BIGINT NOT NULL CHECK (on_hand >= 0),
  available BIGINT NOT NULL CHECK (available >= 0),
  held BIGINT NOT NULL CHECK (held >= 0),
  allocated BIGINT NOT NULL CHECK (allocated >= 0),
  CHECK (on_hand = available + held + allocated)
);

-- What an order has of the stock. wanted, sent: JSON [[sku, units], …], each sku once.
-- short: JSON [{ sku, wanted, available }, …], what a write-off took from it; null: nothing.
CREATE TABLE stock_order (
  order_id TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  wanted TEXT NOT NULL,
  sent TEXT NOT NULL,
  short TEXT,
  changed_at BIGINT NOT NULL
);
-- A write-off of more than is available looks for the orders that hold or have been promised the rest.
CREATE INDEX stock_order_state ON stock_order (state, order_id);

-- Every change of what is on hand. reference: the receipt, write-off, shipment or return; its second row of one sku, as
-- when something returned is thrown away, has a suffix. The key keeps anything from being counted twice.
CREATE TABLE stock_ledger (
  sku TEXT NOT NULL,
  reference TEXT NOT NULL,
  kind TEXT NOT NULL,
  change BIGINT NOT NULL,
  reason TEXT,
  at BIGINT NOT NULL,
  PRIMARY KEY (sku, reference)
);
