/**
 * The tables of the event store, projections and process managers. A store creates them beside the bus's other tables
 * when it opens; every statement may run again.
 *
 * SQLite: `autoincrement`, so that a position is never given twice even where the newest events were erased; a
 * projection's checkpoint relies on it. Writers come one after another, so positions become visible in order.
 *
 * PostgreSQL: positions are taken before the commit, so a lower one may become visible after a higher one. So whoever
 * appends first takes a shared lock that ends with its transaction and whose key is the newest position of that moment:
 * all that it appends lies beyond. `bus_event_bound` answers the lowest such key that is held; whoever reads all streams
 * looks at the head, then at the bound, and reads no further than either: what lies there is committed or never comes.
 * Only who appends to these streams holds a reader up, not every transaction of the server, as pg_snapshot_xmin would.
 * The key's upper 15 bits are of the schema, the lower 48 the position.
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
create sequence if not exists bus_event_sequence;
create or replace function bus_event_position() returns bigint language plpgsql as $$
begin
  if coalesce(current_setting('bus.appends', true), '') <> 'yes' then
    perform pg_advisory_xact_lock_shared(
      ((current_schema()::regnamespace::oid::bigint & 32767) << 48) |
      (select case when is_called then last_value else last_value - 1 end from bus_event_sequence));
    perform set_config('bus.appends', 'yes', true);
  end if;
  return nextval('bus_event_sequence');
end $$;
create or replace function bus_event_bound() returns bigint language sql volatile as $$
  select min(key & 281474976710655) from (
    select (classid::bigint << 32) | objid::bigint as key from pg_locks
    where locktype = 'advisory' and objsubid = 1
      and database = (select oid from pg_database where datname = current_database())
  ) as held where key >> 48 = current_schema()::regnamespace::oid::bigint & 32767
$$;
create table if not exists bus_stream_event (
  position bigint primary key default bus_event_position(),
  stream text not null,
  version bigint not null,
  type text not null,
  schema_version bigint not null,
  data text not null,
  meta text,
  at bigint not null
);
create unique index if not exists bus_stream_event_version on bus_stream_event (stream, version);
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
