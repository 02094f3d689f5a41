/**
 * The tables of the event store, projections and process managers. A store creates them beside the bus's other tables
 * when it opens; every statement may run again.
 *
 * SQLite: `autoincrement`, so that a position is never given twice even where the newest events were erased; a
 * projection's checkpoint relies on it. Writers come one after another, so positions become visible in order.
 *
 * PostgreSQL: positions are taken before the commit, so a lower one may become visible after a higher one. Whoever
 * reads all streams there must order by (transaction_id, position), stop before pg_snapshot_xmin(pg_current_snapshot())
 * and keep both as its bookmark.
 */
export const eventStoreDdl = {
  sqlite: `
create table if not exists bus_stream (
  stream text primary key not null,
  version integer not null,
  state text,
  folded_version integer,
  evolve_version integer
);
create table if not exists bus_stream_event (
  position integer primary key autoincrement,
  stream text not null,
  version integer not null,
  type text not null,
  schema_version integer not null,
  data text not null,
  meta text,
  at integer not null
);
create unique index if not exists bus_stream_event_version on bus_stream_event (stream, version);
create table if not exists bus_projection (
  name text not null,
  generation integer not null,
  version integer not null,
  status text not null check (status in ('live', 'building')),
  position integer not null,
  tables text not null,
  primary key (name, generation)
);
create table if not exists bus_process (
  name text not null,
  id text not null,
  version integer not null,
  state text not null,
  done integer not null,
  updated_at integer not null,
  primary key (name, id)
) without rowid;
`,
  postgres: `
create table if not exists bus_stream (
  stream text primary key,
  version bigint not null,
  state text,
  folded_version bigint,
  evolve_version bigint
);
create table if not exists bus_stream_event (
  position bigint generated always as identity primary key,
  transaction_id xid8 not null default pg_current_xact_id(),
  stream text not null,
  version bigint not null,
  type text not null,
  schema_version bigint not null,
  data text not null,
  meta text,
  at bigint not null
);
create unique index if not exists bus_stream_event_version on bus_stream_event (stream, version);
create index if not exists bus_stream_event_order on bus_stream_event (transaction_id, position);
create table if not exists bus_projection (
  name text not null,
  generation bigint not null,
  version bigint not null,
  status text not null check (status in ('live', 'building')),
  position bigint not null,
  tables text not null,
  primary key (name, generation)
);
create table if not exists bus_process (
  name text not null,
  id text not null,
  version bigint not null,
  state text not null,
  done bigint not null,
  updated_at bigint not null,
  primary key (name, id)
);
`,
} as const
