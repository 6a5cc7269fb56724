-- The audit log becomes tamper-evident: a hash chain over its rows, and signed checkpoints of the chain.
-- Adding `tx` rewrites audit_log under an exclusive lock: about a second for each million rows.

-- The transaction that wrote the row. Transactions that ended before a snapshot's xmin are complete: (tx, seq) is an order that
-- a reader can follow without missing a row that commits late, which seq alone is not.
alter table audit_log add column tx xid8 not null default pg_current_xact_id();
create index audit_log_tx on audit_log (tx, seq);
-- For the operators' list, newest first.
create index audit_log_actor on audit_log (actor, seq);
create index audit_log_action on audit_log (action, seq);
create index audit_log_target on audit_log (target_id, seq);

-- position counts from 1 without gaps and is the order of the chain; hash is what pki/src/audit-chain.ts computes.
create table audit_chain (
  position bigint primary key check (position > 0),
  audit_seq bigint not null unique references audit_log (seq),
  hash bytea not null check (octet_length(hash) = 32)
);

create table audit_checkpoints (
  position bigint primary key references audit_chain (position),
  jws text not null unique,
  created_at timestamptz not null default now()
);

create trigger audit_chain_append_only before update or delete on audit_chain
  for each row execute function refuse_change();
create trigger audit_chain_no_truncate before truncate on audit_chain
  for each statement execute function refuse_change();
create trigger audit_checkpoints_append_only before update or delete on audit_checkpoints
  for each row execute function refuse_change();
create trigger audit_checkpoints_no_truncate before truncate on audit_checkpoints
  for each statement execute function refuse_change();

-- Always, also where session_replication_role is replica, which silences ordinary triggers.
alter table events enable always trigger events_append_only;
alter table events enable always trigger events_no_truncate;
alter table audit_log enable always trigger audit_append_only;
alter table audit_log enable always trigger audit_no_truncate;
alter table audit_chain enable always trigger audit_chain_append_only;
alter table audit_chain enable always trigger audit_chain_no_truncate;
alter table audit_checkpoints enable always trigger audit_checkpoints_append_only;
alter table audit_checkpoints enable always trigger audit_checkpoints_no_truncate;
