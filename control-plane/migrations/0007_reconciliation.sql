-- What hosts have, against what is wanted of them; and incidents, which open once and close by themselves.

-- What a slice is made of, to make it again when its host has lost it. It holds what tenants keep secret, so it goes with the slice.
alter table allocations add column spec text;
update allocations a
set spec = t.params
from (
  select target_id, params from tasks where kind = 'slice.vm_provision'
  union all
  select target_id, params from task_history where kind = 'slice.vm_provision'
) as t
where t.target_id = a.id and a.state not in ('released', 'failed');

-- The last list of each host.
create table node_slices (
  node_id text primary key references nodes,
  digest text not null,
  high_water_mark bigint not null,
  is_whole boolean not null,
  slices jsonb not null,
  reported_at timestamptz not null default now()
);

-- Differences. The allocation may be one that this database does not know.
create table slice_findings (
  node_id text not null references nodes,
  allocation_id text not null,
  generation int not null,
  kind text not null check (kind in ('stopped', 'gone', 'unclear', 'orphan', 'zombie', 'unknown', 'drift')),
  driver text not null,
  detail text not null,
  gpu_uuids text[] not null default '{}',
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  -- Not shown by the newest list any more. Kept for a while, so that what comes back does not begin anew.
  resolved_at timestamptz,
  tries int not null default 0,
  -- When something has to be done or said about it; null when there is nothing left to do but by an operator.
  due_at timestamptz,
  primary key (node_id, allocation_id, generation, kind)
);
create index slice_findings_due on slice_findings (node_id, due_at) where resolved_at is null and due_at is not null;

create table incidents (
  id text primary key,
  -- What it is about, in one word: there is one live incident of it.
  key text not null,
  -- Whose finding it is; what a source does not see any more is closed.
  source text not null,
  kind text not null,
  severity text not null check (severity in ('warning', 'critical')),
  about_id text not null,
  node_id text references nodes,
  state text not null check (state in ('open', 'escalated', 'closed')),
  version int not null default 1,
  detail text not null,
  seen_count int not null default 1,
  opened_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  escalated_at timestamptz,
  closed_at timestamptz
);
create unique index incidents_live_key on incidents (key) where state <> 'closed';
create index incidents_live_source on incidents (source) where state <> 'closed';
create constraint trigger incidents_recorded after insert or update on incidents
  deferrable initially deferred for each row execute function demand_record();
