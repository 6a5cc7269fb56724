-- What happens to every task writes few row versions and few index entries, and nobody who looks for something walks over those of
-- tasks that have ended: while somebody holds an old snapshot, none of them can be cleaned away. Locks allocations, nodes and tasks
-- while it runs.

-- Whether an allocation has ended is asked by a column that is written once: an index that asks for the state gets a new entry with
-- every change of it, and so does every other index of the table.
update allocations set ended_at = coalesce(active_at, created_at) where state in ('released', 'failed') and ended_at is null;
alter table allocations add constraint allocations_ended check ((ended_at is not null) = (state in ('released', 'failed')));
drop index allocations_live_name, allocations_live_node, allocations_live_project;
create unique index allocations_live_name on allocations (project_id, name) where ended_at is null;
create index allocations_live_node on allocations (node_id) where ended_at is null;
alter table allocations set (fillfactor = 70);

-- The slots of an allocation are on its node, which has few.
drop index gpu_slots_allocation;
alter table gpu_slots set (fillfactor = 50);
create or replace function refuse_dead_owner() returns trigger language plpgsql as $$
begin
  if new.ended_at is not null and exists (
    select from gpu_slots s where s.node_id = new.node_id and s.allocation_id = new.id
  ) then
    raise exception 'allocation % is in a final state and still owns a slot', new.id;
  end if;
  return null;
end $$;

-- What is taken of a node changes with every slice, and the rest of its row is read all the time. Pages are left empty for the versions
-- of the few rows on them.
create table node_usage (
  node_id text primary key,
  vcpus int not null check (vcpus >= 0),
  memory_mib int not null check (memory_mib >= 0)
) with (fillfactor = 10);
insert into node_usage (node_id, vcpus, memory_mib) select id, vcpus_used, memory_mib_used from nodes;
alter table nodes drop column vcpus_used, drop column memory_mib_used;

-- The live tasks of a node are found from `live_from` on: below it every transaction has ended, and every task of one has too.
alter table tasks add column tx bigint not null default pg_current_xact_id()::text::bigint;
drop index tasks_claim, tasks_leased;
create index tasks_node on tasks (node_id, tx);
-- The number is one of the history that the epoch of the fences stands for: a restored server may count from below.
alter table node_sequences set (fillfactor = 10);
alter table node_sequences add column live_from bigint not null default 0, add column live_epoch bigint not null default -1;

-- Rows of the audit log are never deleted, and the chain itself tells of one that is missing: to look for each one's row and to lock it
-- cost as much as writing the link.
alter table audit_chain drop constraint audit_chain_audit_seq_fkey;
-- Most rows are about no version; those of a target are found by the other index.
alter table audit_log drop constraint audit_log_target_id_target_version_key;
create unique index audit_log_target_version on audit_log (target_id, target_version) where target_version is not null;
