-- Dispatch at speed: a live table of what is not ended, its history by day, a narrow row for what changes with every grant, fences
-- that survive a lost or restored database. Locks the tables of tasks while it moves their rows.

-- The sequence of the last task granted to a node, apart from its wide row; agents refuse what does not rise.
create table node_sequences (
  node_id text primary key,
  task_seq bigint not null
) with (fillfactor = 50);
insert into node_sequences select id, task_seq from nodes;
alter table nodes drop column desired_rev, drop column task_seq;
create sequence task_revision_seq as bigint;
select setval('task_revision_seq', greatest(1, (select coalesce(max(revision), 0) from tasks)));

-- Rows stay on their page while a lease is renewed: no index has the time. Nodes and operations outlive their tasks, and
-- checking that for every task cost more than the task's own row.
alter table tasks
  drop constraint tasks_node_id_fkey,
  drop constraint tasks_operation_id_fkey,
  add column priority smallint not null default 50,
  -- Not handed out before; a task that failed in passing waits here.
  add column run_at timestamptz not null default now(),
  -- Answers that it failed, and times that its holder was lost in `crash_phase`, one after another.
  add column failures int not null default 0,
  add column crashes int not null default 0,
  add column crash_phase text,
  -- The newest phase that its holder told of.
  add column phase text,
  -- The number of the agent's poll that it was granted to; null for agents that do not number them.
  add column granted_poll bigint,
  -- Rises from task to task; what an agent says that it has seen.
  alter column revision set default nextval('task_revision_seq');
alter table tasks set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
drop index tasks_claim;
drop index tasks_lease;
create index tasks_claim on tasks (node_id, priority, created_at, id) where state = 'ready';
create index tasks_target on tasks (target_id);
create index tasks_leased on tasks (node_id) where state = 'leased';

-- Every task that has ended, with how.
create table task_history (
  id text not null,
  node_id text not null,
  operation_id text,
  target_id text not null,
  kind text not null,
  state text not null check (state in ('succeeded', 'failed', 'cancelled')),
  params text not null,
  params_digest text not null,
  fence bigint not null,
  seq bigint not null,
  attempt int not null,
  failures int not null,
  crashes int not null,
  grant_digest text,
  outcome jsonb,
  result_jws text,
  -- Why nobody tries it again by itself; an operator may.
  dead_reason text,
  redriven_at timestamptz,
  created_at timestamptz not null,
  ended_at timestamptz not null default now(),
  primary key (id, ended_at)
) partition by range (ended_at);
create index task_history_target on task_history (target_id);
create index task_history_operation on task_history (operation_id);
create index task_history_dead on task_history (ended_at) where dead_reason is not null;

-- What hosts told, one row a report: a host tells several phases at once. A report that came twice may be here twice; whoever reads
-- goes by the events' own numbers.
create table phase_reports (
  task_id text not null,
  attempt int not null,
  seq_first int not null,
  seq_last int not null,
  events jsonb not null,
  received_at timestamptz not null default now()
) partition by range (received_at);
create index phase_reports_task on phase_reports (task_id);

do $$
declare
  day date;
begin
  for day in
    select (updated_at at time zone 'UTC')::date from tasks
    union
    select (received_at at time zone 'UTC')::date from phase_events
  loop
    execute format('create table task_history_%s partition of task_history for values from (%L) to (%L)',
      to_char(day, 'YYYYMMDD'), day::text || 'T00:00:00Z', (day + 1)::text || 'T00:00:00Z');
    execute format('create table phase_reports_%s partition of phase_reports for values from (%L) to (%L)',
      to_char(day, 'YYYYMMDD'), day::text || 'T00:00:00Z', (day + 1)::text || 'T00:00:00Z');
  end loop;
end $$;
insert into phase_reports (task_id, attempt, seq_first, seq_last, events, received_at)
select e.task_id, e.attempt, e.seq, e.seq,
  jsonb_build_array(jsonb_build_object('seq', e.seq, 'phase', e.phase, 'direction', e.direction, 'status', e.status, 'attempt', e.phase_attempt,
    'at', to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), 'durationMs', e.duration_ms, 'message', e.message)),
  e.received_at
from phase_events e;
drop table phase_events;
insert into task_history (id, node_id, operation_id, target_id, kind, state, params, params_digest, fence, seq, attempt, failures, crashes, grant_digest,
  outcome, result_jws, created_at, ended_at)
select id, node_id, operation_id, target_id, kind, state, params, params_digest, fence, seq, attempt, 0, 0, grant_digest, outcome, result_jws, created_at, updated_at
from tasks
where state not in ('ready', 'leased');
delete from tasks where state not in ('ready', 'leased');
alter table tasks drop constraint tasks_state_check;
alter table tasks add constraint tasks_state_check check (state in ('ready', 'leased'));
alter table tasks drop column outcome, drop column result_jws, drop column updated_at;

-- A fence is an epoch and a number. The number's sequence may go back when a standby takes over or a backup is restored; the epoch
-- rises then, so that every new fence is above every old one.
create table fence_epoch (
  one boolean primary key default true check (one),
  epoch bigint not null,
  -- Which history of which database the numbers are from.
  history text not null
);
create function database_history() returns text language sql as $$
  select system_identifier || '/' || (select oid from pg_database where datname = current_database()) || '/'
    || left(pg_walfile_name(pg_current_wal_lsn()), 8)
  from pg_control_system()
$$;
insert into fence_epoch (epoch, history) values (0, database_history());
create function fence_base() returns bigint language plpgsql as $$
declare
  current record;
  found_history text := database_history();
begin
  select epoch, history into strict current from fence_epoch;
  if current.history <> found_history then
    update fence_epoch set epoch = epoch + 1, history = found_history where history <> found_history;
    select epoch into strict current.epoch from fence_epoch;
  end if;
  return current.epoch << 40;
end $$;

-- Only what changes a state is checked; the rest of a row may change as often as it likes.
drop trigger allocations_recorded on allocations;
drop trigger nodes_recorded on nodes;
drop trigger allocations_own_nothing on allocations;
create constraint trigger allocations_recorded_insert after insert on allocations
  deferrable initially deferred for each row execute function demand_record();
create constraint trigger allocations_recorded after update on allocations
  deferrable initially deferred for each row when (old.state is distinct from new.state or old.version is distinct from new.version) execute function demand_record();
create constraint trigger nodes_recorded_insert after insert on nodes
  deferrable initially deferred for each row execute function demand_record();
create constraint trigger nodes_recorded after update on nodes
  deferrable initially deferred for each row when (old.state is distinct from new.state or old.version is distinct from new.version) execute function demand_record();
create constraint trigger allocations_own_nothing after update on allocations
  deferrable initially deferred for each row when (new.state in ('released', 'failed')) execute function refuse_dead_owner();
drop trigger slots_live_owner on gpu_slots;
create constraint trigger slots_live_owner after insert or update on gpu_slots
  deferrable initially deferred for each row when (new.allocation_id is not null) execute function refuse_dead_claim();
