-- Cards that are given to tenants in parts. A part has a row while somebody owns it or it is quarantined; its card keeps its own
-- row, which is `divided` meanwhile and never handed out. Every row that is there stays what it is: nothing was divided before.

alter table gpu_slots
  drop constraint gpu_slots_state_check,
  add constraint gpu_slots_state_check check (state in ('available', 'owned', 'quarantined', 'divided')),
  -- Of a part: its card, and its place there by the card's own units. All of them, or none.
  add column card_uuid text,
  add column mig_profile int,
  add column mig_start int check (mig_start >= 0),
  add column mig_size int check (mig_size > 0),
  add constraint gpu_slots_part check (num_nulls(card_uuid, mig_profile, mig_start, mig_size) in (0, 4)),
  add constraint gpu_slots_divided check (state <> 'divided' or card_uuid is null),
  add constraint gpu_slots_not_whole check (state <> 'available' or card_uuid is not null or not gpu ? 'mig'),
  add constraint gpu_slots_card foreign key (node_id, card_uuid) references gpu_slots (node_id, gpu_uuid);
create index gpu_slots_parts on gpu_slots (node_id, card_uuid) where card_uuid is not null;

-- What a slot is that nobody owns and nothing is wrong with. A part then has no row for long.
create function idle_slot_state(card_uuid text, gpu jsonb) returns text language sql immutable as $$
  select case when card_uuid is null and gpu ? 'mig' then 'divided' else 'available' end
$$;

-- Two parts never lie over each other, whoever writes them: the row of their card is held by each who adds one.
create function refuse_overlap() returns trigger language plpgsql as $$
declare
  card_state text;
begin
  select state into card_state from gpu_slots where node_id = new.node_id and gpu_uuid = new.card_uuid for update;
  if new.state = 'available' and card_state is distinct from 'divided' then
    raise exception 'a place is taken on card %, which is %', new.card_uuid, card_state;
  end if;
  if exists (
    select from gpu_slots s
    where s.node_id = new.node_id and s.card_uuid = new.card_uuid and s.gpu_uuid <> new.gpu_uuid
      and s.mig_start < new.mig_start + new.mig_size and new.mig_start < s.mig_start + s.mig_size
  ) then
    raise exception 'slot % lies over another', new.gpu_uuid;
  end if;
  return null;
end $$;
create trigger slots_overlap after insert on gpu_slots
  for each row when (new.card_uuid is not null) execute function refuse_overlap();

-- A part that is nobody's has no row: its place is free by that.
create function refuse_free_part() returns trigger language plpgsql as $$
begin
  if exists (select from gpu_slots s where s.node_id = new.node_id and s.gpu_uuid = new.gpu_uuid and s.state = 'available') then
    raise exception 'slot % is nobody''s and still there', new.gpu_uuid;
  end if;
  return null;
end $$;
create constraint trigger slots_free_part after insert or update on gpu_slots
  deferrable initially deferred for each row when (new.card_uuid is not null and new.state = 'available') execute function refuse_free_part();

-- How many of each part could be had of each card now: counted anew with every change of what lies on the card, in the same transaction.
create table mig_capacity (
  node_id text not null,
  card_uuid text not null,
  gpu_kind text not null,
  profile text not null,
  -- Units of the card's grid.
  size int not null,
  free int not null check (free >= 0),
  primary key (node_id, card_uuid, gpu_kind),
  foreign key (node_id, card_uuid) references gpu_slots (node_id, gpu_uuid)
) with (fillfactor = 70);
create index mig_capacity_kind on mig_capacity (gpu_kind, node_id);
