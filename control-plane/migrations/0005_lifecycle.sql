-- Nodes that are drained, down, quarantined or retired; what a node's state is for; labels; quotas and gangs.

alter table nodes drop constraint nodes_state_check;
alter table nodes add constraint nodes_state_check check (state in
  ('enrolled', 'ready', 'cordoned', 'draining', 'down', 'quarantined', 'frozen', 'revoked', 'retired'));

alter table nodes
  add column reason text,
  add column state_since timestamptz not null default now(),
  -- What a node that is down goes back to when it is heard again.
  add column down_from text check (down_from in ('ready', 'cordoned', 'draining')),
  -- Its reason before it went down, which comes back with it.
  add column reason_before text,
  -- When it was last called down; kept after it came back, so that it does not flap and the brake counts it.
  add column down_at timestamptz,
  add column drain_policy text check (drain_policy in ('wait', 'stop')),
  add column drain_since timestamptz,
  add column drain_stops_at timestamptz,
  add column labels jsonb not null default '{}';
alter table nodes add constraint nodes_down_check check (state <> 'down' or (down_from is not null and down_at is not null));

-- Each replica's proof that it could write what it heard: no silence counts against a node while one of them could not.
create table liveness_flushes (
  replica_id text primary key,
  flushed_at timestamptz not null,
  -- Since when its flushes followed each other without a gap.
  steady_since timestamptz not null
);

-- Times when so many nodes fell silent together that none was called down.
create table node_incidents (
  id text primary key,
  zone text not null,
  silent int not null,
  nodes int not null,
  opened_at timestamptz not null default now(),
  closed_at timestamptz
);
create unique index node_incidents_open on node_incidents ((true)) where closed_at is null;

-- Null is no limit.
create table project_quotas (
  project_id text primary key references projects,
  gpus_max int check (gpus_max >= 0),
  vcpus_max int check (vcpus_max >= 0),
  memory_mib_max int check (memory_mib_max >= 0),
  allocations_max int check (allocations_max >= 0),
  updated_at timestamptz not null default now()
);

alter table allocations
  add column group_id text,
  add column spread_by text,
  add column node_selector jsonb not null default '{}';
create index allocations_live_node on allocations (node_id) where state not in ('released', 'failed');
create index allocations_live_project on allocations (project_id) where state not in ('released', 'failed');
