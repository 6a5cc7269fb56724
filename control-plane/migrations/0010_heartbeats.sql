-- Heartbeats rewrite every row within ten seconds and leave nothing behind: each page prunes itself. By the ordinary rule the
-- table would be vacuumed every minute, which writes more than the heartbeats do; this is every eight minutes for 10,000 nodes.
alter table node_liveness set (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500000,
  autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 500000
);
