import { eventStoreDdl } from './event-store-ddl.ts'
import { ddlForPostgres } from './postgres-ddl.ts'
import { addedColumns } from './sqlite-tables.ts'

/**
 * The bus's own tables, in every service's schema; see sqlite-tables.ts for what each is for. `body` holds bytes, whether
 * the codec wrote text or bytes. The relay needs no order of transactions (relay.ts, R4).
 */
export const busTables = ddlForPostgres(`
create table if not exists bus_migration (name text primary key, hash text not null);

create table if not exists bus_inbox (
  subscription text not null, id text not null, at bigint not null,
  primary key (subscription, id)
);

create table if not exists bus_outbox (
  position bigint generated always as identity primary key,
  id text not null, type text not null, message_key text, headers text not null, body bytea not null, at bigint not null
);

create table if not exists bus_deferred (
  position bigint generated always as identity primary key,
  subscription text not null, message_key text not null, id text not null, type text not null, headers text not null,
  body bytea not null, attempts bigint not null, due_at bigint, claimed_until bigint not null, reason text not null,
  trace text
);
create index if not exists bus_deferred_key on bus_deferred (subscription, message_key, position);
create index if not exists bus_deferred_due on bus_deferred (subscription, due_at) where due_at is not null;

create table if not exists bus_dead_letter (
  id text primary key, subscription text not null, message_id text not null, message_key text not null,
  type text not null, headers text not null, body bytea not null, code text not null, cause text not null,
  detail text not null, attempts bigint not null, failed_at bigint not null, position bigint not null,
  status text not null, parks bigint not null, trace text
);
create index if not exists bus_dead_letter_open on bus_dead_letter (subscription, message_key) where status = 'open';
create table if not exists bus_dead_letter_act (
  position bigint generated always as identity primary key,
  dead_letter text not null, act text not null, by text not null, why text not null, at bigint not null, detail text not null
);
create index if not exists bus_dead_letter_act_of on bus_dead_letter_act (dead_letter);

create table if not exists bus_timer (
  id text primary key, due_at bigint not null, message_id text not null, type text not null, message_key text,
  headers text not null, body bytea not null
);
create index if not exists bus_timer_due on bus_timer (due_at);
create table if not exists bus_cron (name text primary key, expression text not null, next_at bigint not null);

create table if not exists bus_fence (
  subscription text not null, shard bigint not null, epoch bigint not null,
  primary key (subscription, shard)
);

create table if not exists bus_attempt (
  subscription text not null, id text not null, attempts bigint not null,
  primary key (subscription, id)
);

${addedColumns.map(([table, column, type]) => `alter table ${table} add column if not exists ${column} ${type};`).join('\n')}

${eventStoreDdl.postgres}
`)
