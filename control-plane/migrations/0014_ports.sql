-- The ports of slices with the ports of hosts that lead to them, and limits of bandwidth. Constant defaults: no row is written anew, and
-- the lock is short.
alter table allocations
  add column ports jsonb not null default '[]',
  add column bandwidth_mbit_per_second int check (bandwidth_mbit_per_second > 0);
