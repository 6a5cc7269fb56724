-- The control plane's own work as operations with a system scope, how it is run, and when it comes back.
-- The indexes on operations lock out its writers for about a second for each million rows.

-- Whose operation it is: a project's, or the system's under a name.
alter table operations add column scope text check (scope ~ '^system:[a-z][a-z-]*$');
alter table operations add constraint operations_owner check (project_id is null or scope is null);
create index operations_project on operations (project_id, id);
create index operations_scope on operations (scope, id) where scope is not null;

-- How an operation of ours is run. The row of the operation is what people see of it; both change in one transaction.
create table jobs (
  -- Deferred: the job is inserted first, because its dedupe key decides whether there is an operation at all.
  operation_id text primary key references operations on delete cascade deferrable initially deferred,
  kind text not null,
  params jsonb not null default '{}' check (octet_length(params::text) <= 16384),
  -- At most one job that is not over has it.
  dedupe_key text,
  -- Higher goes first.
  priority int not null default 0,
  state text not null check (state in ('ready', 'running', 'succeeded', 'failed', 'dead', 'cancelled')),
  run_at timestamptz not null default now(),
  -- Held until then, under this fence: a grant has a higher one than every grant before it.
  lease_until timestamptz,
  fence bigint not null default 0,
  -- Failures that a worker told of, over the whole job.
  attempts int not null default 0,
  -- Workers that were lost since a step last ended.
  crashes int not null default 0,
  step text,
  steps_done text[] not null default '{}',
  cancel_requested boolean not null default false,
  reason text,
  -- The operation that an operator made of a dead letter.
  redriven_as text,
  created_at timestamptz not null default now(),
  ended_at timestamptz,
  check ((state = 'running') = (lease_until is not null)),
  check ((state in ('ready', 'running')) = (ended_at is null))
) with (fillfactor = 70);
create unique index jobs_dedupe on jobs (dedupe_key) where state in ('ready', 'running');
create index jobs_due on jobs (priority desc, run_at, operation_id) where state = 'ready';
create index jobs_leases on jobs (lease_until) where state = 'running';
create index jobs_ended on jobs (ended_at) where ended_at is not null;

-- Work that comes back: one row a kind, whatever the number of replicas.
create table job_schedules (
  kind text primary key,
  next_at timestamptz not null default now()
);
