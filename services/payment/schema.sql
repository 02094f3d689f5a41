-- Payments themselves are streams of the event store, 'payment:<order id>'; see payment.ts.

-- To whom word is sent when a payment needs attention. The only personal data here, so that it can be forgotten.
-- buyer: the customer's id, or the order's id for a guest. forgotten: 1 when the account was deleted.
CREATE TABLE payment_buyer (
  buyer TEXT PRIMARY KEY,
  email TEXT,
  forgotten BIGINT NOT NULL
);

-- All money that was taken and all that went back, spread over some rows so that orders do not wait for each other.
CREATE TABLE payment_total (
  shard BIGINT PRIMARY KEY,
  charged_pence BIGINT NOT NULL,
  refunded_pence BIGINT NOT NULL
);

-- Refunds that the provider does not carry out: a person must help.
CREATE TABLE refund_attention (
  refund_id TEXT PRIMARY KEY,
  order_id TEXT NOT NULL,
  refund_pence BIGINT NOT NULL,
  reason TEXT NOT NULL,
  since BIGINT NOT NULL
);

-- Webhooks whose signature held, as they came. worked_at: null until they have been worked on.
CREATE TABLE provider_notice (
  notice_id TEXT PRIMARY KEY,
  order_id TEXT NOT NULL,
  notice TEXT NOT NULL,
  received_at BIGINT NOT NULL,
  worked_at BIGINT
);
CREATE INDEX provider_notice_received ON provider_notice (received_at);
