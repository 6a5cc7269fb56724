-- Slices that are a whole host. The rows that are there obeyed the narrower rule before, so nothing is looked at again and the lock
-- is short.
alter table allocations
  drop constraint allocations_driver_check,
  add constraint allocations_driver_check check (driver in ('qemu', 'container', 'host', 'mock')) not valid;
