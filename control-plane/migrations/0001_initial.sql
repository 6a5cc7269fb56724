-- The first schema. Forward only; never edited after it is on main.
-- Ids are text: a prefix and a UUIDv7 (shared/src/ids.ts). Times are timestamptz in database time.

create table organizations (
  id text primary key,
  name text not null unique,
  created_at timestamptz not null default now()
);

create table projects (
  id text primary key,
  organization_id text not null references organizations,
  name text not null,
  created_at timestamptz not null default now(),
  unique (organization_id, name)
);

-- Who acts. An API key is one kind of principal; users and service accounts join later.
create table principals (
  id text primary key,
  kind text not null check (kind in ('api_key')),
  name text not null,
  created_at timestamptz not null default now()
);

create table api_keys (
  id text primary key,
  principal_id text not null unique references principals,
  prefix text not null unique,
  secret_hash bytea not null,
  created_at timestamptz not null default now(),
  revoked_at timestamptz,
  last_used_at timestamptz
);

-- project_id null means the whole platform.
create table role_bindings (
  id text primary key,
  principal_id text not null references principals,
  role text not null,
  project_id text references projects,
  created_at timestamptz not null default now(),
  unique nulls not distinct (principal_id, role, project_id)
);

create table nodes (
  id text primary key,
  name text not null,
  state text not null check (state in ('enrolled', 'ready', 'cordoned', 'revoked')),
  -- Rises with every state change; the event and audit rows of the change carry it.
  version int not null default 1,
  protocol_version int not null,
  agent_version text,
  facts jsonb,
  drivers jsonb not null default '[]',
  gpus_simulated boolean not null default false,
  vcpus_total int not null default 0,
  vcpus_used int not null default 0 check (vcpus_used >= 0),
  memory_mib_total int not null default 0,
  memory_mib_used int not null default 0 check (memory_mib_used >= 0),
  -- What the agent has to catch up with; a poll waits for more than it acknowledged.
  desired_rev bigint not null default 0,
  -- The sequence of the last task granted; agents refuse what does not rise.
  task_seq bigint not null default 0,
  created_at timestamptz not null default now()
);

-- Written once per flush for all nodes: narrow, without further indexes, so that updates stay on the page.
create table node_liveness (
  node_id text primary key references nodes,
  last_seen_at timestamptz not null,
  agent_instance text not null,
  acked_rev bigint not null
) with (fillfactor = 50);

create table bootstrap_tokens (
  id text primary key,
  secret_hash bytea not null,
  host_name text,
  created_by text not null references principals,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  used_at timestamptz,
  -- The key that used it: the same key again gets the same certificate, any other is refused.
  used_by_key text,
  node_id text references nodes
);

create table node_certificates (
  serial text primary key,
  node_id text not null references nodes,
  -- Rises with every renewal of the node's identity.
  generation int not null,
  -- RFC 7638 thumbprint of the public key; tasks are bound to it.
  key_thumbprint text not null unique,
  chain_pem text not null,
  not_before timestamptz not null,
  not_after timestamptz not null,
  state text not null check (state in ('active', 'superseded', 'revoked')),
  created_at timestamptz not null default now(),
  unique (node_id, generation)
);

create table images (
  id text primary key,
  name text not null unique,
  sha256 text not null,
  size_bytes bigint not null,
  format text not null check (format in ('qcow2', 'raw')),
  created_at timestamptz not null default now()
);

create table operations (
  id text primary key,
  kind text not null,
  target_id text not null,
  project_id text references projects,
  state text not null check (state in ('pending', 'running', 'retrying', 'succeeded', 'failed', 'cancelled')),
  version int not null default 1,
  phase text,
  phases_done int not null default 0,
  phases_total int not null default 0,
  error jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index operations_target on operations (target_id, created_at);

create table allocations (
  id text primary key,
  project_id text not null references projects,
  name text not null,
  state text not null check (state in ('requested', 'provisioning', 'active', 'releasing', 'release_failed', 'released', 'failed')),
  version int not null default 1,
  generation int not null default 1,
  reason text,
  node_id text references nodes,
  driver text not null check (driver in ('qemu', 'mock')),
  image_id text not null references images,
  vcpus int not null,
  memory_mib int not null,
  disk_gib int not null,
  gpus jsonb not null default '[]',
  gpus_simulated boolean not null default false,
  labels jsonb not null default '{}',
  operation_id text not null references operations,
  created_at timestamptz not null default now(),
  active_at timestamptz,
  ended_at timestamptz
);
create index allocations_project on allocations (project_id, id);
create unique index allocations_live_name on allocations (project_id, name) where state not in ('released', 'failed');

-- One row a physical GPU, its owner a column: a slot cannot have two owners.
create table gpu_slots (
  node_id text not null references nodes,
  gpu_uuid text not null,
  gpu_kind text not null,
  gpu jsonb not null,
  state text not null check (state in ('available', 'owned', 'quarantined')),
  allocation_id text references allocations,
  reason text,
  primary key (node_id, gpu_uuid),
  check ((state = 'owned') = (allocation_id is not null))
);
create index gpu_slots_allocation on gpu_slots (allocation_id) where allocation_id is not null;

create sequence fence_seq as bigint;

create table tasks (
  id text primary key,
  node_id text not null references nodes,
  operation_id text references operations,
  target_id text not null,
  kind text not null,
  state text not null check (state in ('ready', 'leased', 'succeeded', 'failed', 'cancelled')),
  params text not null,
  params_digest text not null,
  -- The node revision that announces it.
  revision bigint not null,
  fence bigint not null default 0,
  seq bigint not null default 0,
  attempt int not null default 0,
  lease_until timestamptz,
  -- SHA-256 of the JWS of the current grant: a result answers that grant and no other.
  grant_digest text,
  expires_at timestamptz not null,
  cancel_requested boolean not null default false,
  outcome jsonb,
  result_jws text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index tasks_claim on tasks (node_id, created_at) where state = 'ready';
create index tasks_lease on tasks (lease_until) where state = 'leased';
create index tasks_operation on tasks (operation_id);

create table phase_events (
  task_id text not null references tasks,
  attempt int not null,
  seq int not null,
  phase text not null,
  direction text not null,
  status text not null,
  phase_attempt int not null,
  at timestamptz not null,
  duration_ms int,
  message text,
  received_at timestamptz not null default now(),
  primary key (task_id, attempt, seq)
);

create table terminals (
  id text primary key,
  allocation_id text not null references allocations,
  principal_id text not null references principals,
  ticket_hash bytea not null,
  -- The origin that asked; the browser's socket must come from the same. Null for programs, which send none.
  origin text,
  cols int not null,
  rows int not null,
  expires_at timestamptz not null,
  redeemed_at timestamptz,
  owner_replica text,
  epoch int not null default 0,
  agent_ticket_hash bytea,
  agent_redeemed_at timestamptz,
  closed_at timestamptz,
  close_reason text,
  exit_code int,
  created_at timestamptz not null default now()
);
create index terminals_open on terminals (allocation_id) where closed_at is null;

create table telemetry_samples (
  node_id text not null references nodes,
  at timestamptz not null,
  simulated boolean not null,
  host jsonb not null,
  gpus jsonb not null,
  primary key (node_id, at)
) partition by range (at);

create table idempotency_keys (
  principal_id text not null references principals,
  key text not null,
  request_hash bytea not null,
  -- Null while the first request is in flight.
  status int,
  body jsonb,
  created_at timestamptz not null default now(),
  primary key (principal_id, key)
);

-- What happened, for whoever follows along; written with the change it tells of.
create table events (
  id text primary key,
  aggregate_id text not null,
  aggregate_version int not null,
  topic text not null,
  project_id text,
  body jsonb not null,
  at timestamptz not null default now(),
  unique (aggregate_id, aggregate_version)
);

-- Who did what. `seq` orders it; a hash chain is built over it later.
create table audit_log (
  seq bigint generated always as identity primary key,
  at timestamptz not null default now(),
  actor text not null,
  action text not null,
  target_id text not null,
  target_version int,
  outcome text not null check (outcome in ('succeeded', 'refused')),
  request_id text,
  detail jsonb not null default '{}',
  unique (target_id, target_version)
);

-- Invariant 4: history is never rewritten.
create function refuse_change() returns trigger language plpgsql as $$
begin
  raise exception '% rows are append-only', tg_table_name using errcode = 'insufficient_privilege';
end $$;
create trigger events_append_only before update or delete on events for each row execute function refuse_change();
create trigger events_no_truncate before truncate on events for each statement execute function refuse_change();
create trigger audit_append_only before update or delete on audit_log for each row execute function refuse_change();
create trigger audit_no_truncate before truncate on audit_log for each statement execute function refuse_change();

-- Invariant 3: a state change raises the version by one, and the transaction holds its event and its audit row.
create function demand_record() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' then
    if new.state = old.state then
      return null;
    end if;
    if new.version <> old.version + 1 then
      raise exception '% %: a state change must raise version by one', tg_table_name, new.id;
    end if;
  end if;
  if not exists (select from events where aggregate_id = new.id and aggregate_version = new.version) then
    raise exception '% % version %: the change has no event', tg_table_name, new.id, new.version;
  end if;
  if not exists (select from audit_log where target_id = new.id and target_version = new.version) then
    raise exception '% % version %: the change has no audit row', tg_table_name, new.id, new.version;
  end if;
  return null;
end $$;
create constraint trigger allocations_recorded after insert or update on allocations
  deferrable initially deferred for each row execute function demand_record();
create constraint trigger nodes_recorded after insert or update on nodes
  deferrable initially deferred for each row execute function demand_record();

-- Invariant 2: an allocation in a final state owns nothing.
create function refuse_dead_owner() returns trigger language plpgsql as $$
begin
  if exists (
    select from gpu_slots s join allocations a on a.id = s.allocation_id
    where a.id = new.id and a.state in ('released', 'failed')
  ) then
    raise exception 'allocation % is in a final state and still owns a slot', new.id;
  end if;
  return null;
end $$;
create constraint trigger allocations_own_nothing after update on allocations
  deferrable initially deferred for each row execute function refuse_dead_owner();
create function refuse_dead_claim() returns trigger language plpgsql as $$
begin
  if new.allocation_id is not null and exists (
    select from allocations a where a.id = new.allocation_id and a.state in ('released', 'failed')
  ) then
    raise exception 'slot % of % cannot be given to an allocation in a final state', new.gpu_uuid, new.node_id;
  end if;
  return null;
end $$;
create constraint trigger slots_live_owner after insert or update on gpu_slots
  deferrable initially deferred for each row execute function refuse_dead_claim();
