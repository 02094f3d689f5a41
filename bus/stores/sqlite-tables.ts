import { eventStoreDdl } from './event-store-ddl.ts'

/**
 * The bus's own tables, in every service's database. Ids are UUIDv7 in text, so the keys grow at their right end.
 * Times are milliseconds since the epoch; `body` is text or bytes, as the codec wrote it.
 */
export const busTables = `
create table if not exists bus_migration (name text primary key, hash text not null);

-- What a subscription has taken over: handled, deferred or made a dead letter. Remembered for inboxWindowMs.
create table if not exists bus_inbox (
  subscription text not null, id text not null, at integer not null,
  primary key (subscription, id)
) without rowid;

-- What committed transactions said and the broker has not confirmed yet. Autoincrement: a position never comes twice.
create table if not exists bus_outbox (
  position integer primary key autoincrement,
  id text not null, type text not null, message_key text, headers text not null, body blob not null, at integer not null
);

-- Messages that wait in the service: the first of a key for its next attempt, those behind it for the first.
-- due_at null: waits behind another one of its key, or behind a dead letter.
create table if not exists bus_deferred (
  position integer primary key autoincrement,
  subscription text not null, message_key text not null, id text not null, type text not null, headers text not null,
  body blob not null, attempts integer not null, due_at integer, claimed_until integer not null, reason text not null,
  trace text
);
create index if not exists bus_deferred_key on bus_deferred (subscription, message_key, position);
create index if not exists bus_deferred_due on bus_deferred (subscription, due_at) where due_at is not null;

create table if not exists bus_dead_letter (
  id text primary key, subscription text not null, message_id text not null, message_key text not null,
  type text not null, headers text not null, body blob not null, code text not null, cause text not null,
  detail text not null, attempts integer not null, failed_at integer not null, position integer not null,
  status text not null, parks integer not null, trace text
) without rowid;
create index if not exists bus_dead_letter_open on bus_dead_letter (subscription, message_key) where status = 'open';
create table if not exists bus_dead_letter_act (
  position integer primary key autoincrement,
  dead_letter text not null, act text not null, by text not null, why text not null, at integer not null, detail text not null
);
create index if not exists bus_dead_letter_act_of on bus_dead_letter_act (dead_letter);

-- What is to be published later. An id is unique: publishing under it again replaces it.
create table if not exists bus_timer (
  id text primary key, due_at integer not null, message_id text not null, type text not null, message_key text,
  headers text not null, body blob not null
) without rowid;
create index if not exists bus_timer_due on bus_timer (due_at);
create table if not exists bus_cron (
  name text primary key, expression text not null, next_at integer not null
) without rowid;

-- The highest lease seen of each shard: whoever comes with an older one is refused.
create table if not exists bus_fence (
  subscription text not null, shard integer not null, epoch integer not null,
  primary key (subscription, shard)
) without rowid;

-- Attempts on messages during which a process may have died.
create table if not exists bus_attempt (
  subscription text not null, id text not null, attempts integer not null,
  primary key (subscription, id)
) without rowid;

${eventStoreDdl.sqlite}
`

/** Columns that a table of an earlier version lacks: table, column, type. */
export const addedColumns = [
  ['bus_deferred', 'trace', 'text'],
  ['bus_dead_letter', 'trace', 'text'],
] as const
