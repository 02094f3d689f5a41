-- Every message that the shop's broker carried, once. One insert a message is the price of everything below, so each
-- index has to earn its keep:
--   id              the message's own UUIDv7: grows at its right end; a repeat after the inbox has forgotten it changes nothing
--   time            lists and time ranges; grows at its right end
--   message_key     the life of one order; ids in keys are UUIDv7 too, so the pages written to are the newest
--   causation_id    effects of an event; the cause is a recent message, so again the newest pages
--   correlation_id  only where a thread begins, from there causation leads on. Request ids are random: an index of all
--                   of them touches a cold page for each message and doubles the cost of the insert (measured)
create table audit_event (
  id text not null primary key,
  type text not null,
  source text not null,
  time bigint not null,
  message_key text,
  correlation_id text not null,
  causation_id text,
  traceparent text,
  version bigint not null,
  body text not null
);
create index audit_event_time on audit_event (time, id);
create index audit_event_key on audit_event (message_key);
create index audit_event_cause on audit_event (causation_id);
create index audit_event_thread on audit_event (correlation_id) where causation_id is null;
