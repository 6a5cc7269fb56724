-- The slices that were asked for together are found together. Locks allocations against writes while it is built.
create index allocations_group on allocations (group_id) where group_id is not null;
