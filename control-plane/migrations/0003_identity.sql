-- Sessions, recovery, frozen nodes and rotating authorities.

alter table nodes drop constraint nodes_state_check;
alter table nodes add constraint nodes_state_check
  check (state in ('enrolled', 'ready', 'cordoned', 'frozen', 'revoked'));

-- A start of the agent. Each start is given the next number; whoever comes with an older one holds a copy of the identity.
alter table nodes
  add column session bigint not null default 0,
  -- The number that it was made from: still good until the new one was seen, because the answer may have got lost.
  add column session_from bigint not null default 0,
  add column session_confirmed boolean not null default true,
  add column session_instance text,
  -- Until then an older number is expected: an operator restored the host from a backup.
  add column restore_until timestamptz,
  -- How often the host came back by its last key since it last renewed in the ordinary way.
  add column recoveries int not null default 0,
  add column recovery_limit int not null default 3;

-- Generation of the certificate authority that signed it.
alter table node_certificates add column authority int not null default 1;

alter table node_liveness add column trust_version int not null default 0;

-- When set, only this key (RFC 7638 thumbprint) may use the token.
alter table bootstrap_tokens add column key_thumbprint text;

-- The last one says which authorities there are. Public: keys are in files.
create table trust_bundles (
  version int primary key,
  jws text not null,
  created_at timestamptz not null default now()
);
create trigger trust_bundles_append_only before update or delete on trust_bundles
  for each row execute function refuse_change();
create trigger trust_bundles_no_truncate before truncate on trust_bundles
  for each statement execute function refuse_change();
