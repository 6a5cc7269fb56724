-- The outbox: one order of all events, readers that resume in it, and webhooks.
-- Adding `tx` and `seq` rewrites events under an exclusive lock: about a second for each million rows.

-- Events of one aggregate get their `seq` while the aggregate's row is locked, so `seq` rises with the version. `tx` tells below
-- what there is nothing left to look for (control-plane/src/events/store.ts).
alter table events add column tx xid8 not null default pg_current_xact_id();
alter table events add column seq bigint generated always as identity;
create unique index events_seq on events (seq);
create index events_tx on events (tx);
create index events_at on events (at);

-- position counts from 1 without gaps, in the order in which everybody is told of the events.
create table event_positions (
  position bigint primary key check (position > 0),
  event_seq bigint not null unique references events (seq),
  project_id text
);
create index event_positions_project on event_positions (project_id, position);
create trigger event_positions_append_only before update or delete on event_positions
  for each row execute function refuse_change();
create trigger event_positions_no_truncate before truncate on event_positions
  for each statement execute function refuse_change();
alter table event_positions enable always trigger event_positions_append_only;
alter table event_positions enable always trigger event_positions_no_truncate;
insert into event_positions (position, event_seq, project_id)
select row_number() over (order by seq), seq, project_id
from events;

-- One row. Every event of a transaction below `below_tx` has its position.
create table event_sequencer (
  id boolean primary key default true check (id),
  below_tx xid8 not null
);
insert into event_sequencer (below_tx) values ('0');

-- Where events are delivered to. project_id null means the whole platform.
create table event_sinks (
  id text primary key,
  kind text not null check (kind in ('webhook')),
  project_id text references projects,
  url text not null,
  -- AES-256-GCM; the key is in a file, never here.
  secret_encrypted bytea not null,
  -- `node.revoked` or `allocation.*`; empty means every topic.
  topics text[] not null default '{}',
  state text not null check (state in ('active', 'disabled', 'removed')),
  version int not null default 1,
  reason text,
  -- Everything up to here was delivered, put among the dead letters, or is of no interest. Rises only.
  position bigint not null,
  -- Failures in a row of what stands first, and since when nothing was taken.
  attempts int not null default 0,
  failing_since timestamptz,
  last_error text,
  next_attempt_at timestamptz not null default now(),
  -- Which delivery round owns the sink, and until when unless it says more.
  lease_token text,
  lease_until timestamptz,
  created_by text not null references principals,
  created_at timestamptz not null default now()
);
create index event_sinks_due on event_sinks (next_attempt_at) where state = 'active';
create index event_sinks_project on event_sinks (project_id, id);
create constraint trigger event_sinks_recorded after insert or update on event_sinks
  deferrable initially deferred for each row execute function demand_record();

-- What a sink did not take in time. Later events of the same aggregate queue up behind it, so that a replay is in order.
create table event_dead_letters (
  sink_id text not null references event_sinks,
  position bigint not null references event_positions,
  event_id text not null references events,
  aggregate_id text not null,
  attempts int not null,
  last_error text not null,
  at timestamptz not null default now(),
  -- Set by an operator: deliver it again.
  replay_at timestamptz,
  primary key (sink_id, position)
);
create index event_dead_letters_aggregate on event_dead_letters (sink_id, aggregate_id);
create index event_dead_letters_replay on event_dead_letters (sink_id, position) where replay_at is not null;
