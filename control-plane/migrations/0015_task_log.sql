-- The tasks of a host that failed, newest first. Tasks that succeed, nearly all of them, are not in it and cost nothing. Building it
-- reads the history once, and holds up what ends tasks for as long: seconds for millions of rows.
create index task_history_failed on task_history (node_id, id) where state = 'failed';

-- The last receipt of each GPU slot: the signed result of the task that gave it back. The history of tasks is forgotten after months;
-- a slot may be idle for longer, and whoever gets it next may ask what was done to it.
create table slot_receipts (
  node_id text not null,
  gpu_uuid text not null,
  task_id text not null,
  allocation_id text not null,
  kind text not null,
  result_jws text not null,
  ended_at timestamptz not null default now(),
  primary key (node_id, gpu_uuid)
);
