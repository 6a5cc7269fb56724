-- Events by days: a day past its time is dropped whole. Sinks that deliver many things at once, and NATS as a second kind of sink.
-- Locks events and sinks and copies every event: about ten seconds for each million rows, in which nothing that writes an event goes on.

lock table events, event_positions, event_dead_letters, event_sinks in access exclusive mode;

-- A dead letter carries its event, and so outlives the event's day.
alter table event_dead_letters add column event jsonb;
update event_dead_letters d
set event = jsonb_build_object('id', e.id, 'topic', e.topic,
  'at', to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'aggregateId', e.aggregate_id,
  'aggregateVersion', e.aggregate_version, 'projectId', e.project_id, 'body', e.body)
from events e
where e.id = d.event_id;
alter table event_dead_letters alter column event set not null;
alter table event_dead_letters drop column event_id;
alter table event_dead_letters drop constraint event_dead_letters_position_fkey;

alter table events rename to events_before;
alter table event_positions rename to event_positions_before;
alter table event_positions_before drop constraint event_positions_event_seq_fkey;
drop index events_seq, events_tx, events_at, event_positions_project;

create sequence event_seq as bigint;
select setval('event_seq', coalesce(max(seq), 0) + 1, false) from events_before;

-- What is unique is so within a day: id, seq, and (aggregate_id, aggregate_version), see control-plane/src/db/partitions.ts. That a
-- version is told once over all days is the work of the row's own compare-and-set, and of audit_log, which has the same pair.
create table events (
  id text not null,
  aggregate_id text not null,
  aggregate_version int not null,
  topic text not null,
  project_id text,
  body jsonb not null,
  at timestamptz not null default now(),
  tx xid8 not null default pg_current_xact_id(),
  seq bigint not null default nextval('event_seq')
) partition by range (at);
create index events_tx on events (tx);

-- placed_at never falls as position rises, and never lies before the event's own time: a reader that knows where it stands looks
-- at no day before.
create table event_positions (
  position bigint not null check (position > 0),
  placed_at timestamptz not null,
  event_seq bigint not null,
  event_at timestamptz not null check (event_at <= placed_at),
  project_id text
) partition by range (placed_at);
create index event_positions_project on event_positions (project_id, position);

create trigger events_append_only before update or delete on events for each row execute function refuse_change();
create trigger events_no_truncate before truncate on events for each statement execute function refuse_change();
create trigger event_positions_append_only before update or delete on event_positions
  for each row execute function refuse_change();
create trigger event_positions_no_truncate before truncate on event_positions
  for each statement execute function refuse_change();
alter table events enable always trigger events_append_only;
alter table events enable always trigger events_no_truncate;
alter table event_positions enable always trigger event_positions_append_only;
alter table event_positions enable always trigger event_positions_no_truncate;

create temporary table placed_before on commit drop as
select p.position, max(e.at) over (order by p.position) as placed_at, p.event_seq, e.at as event_at, p.project_id
from event_positions_before p
join events_before e on e.seq = p.event_seq;

-- A day for each that has rows, and from yesterday to a week ahead.
do $$
declare
  cut record;
begin
  for cut in
    select kind.name, kind.unique_in_day, days.day
    from (values
      ('events', 'unique (id), unique (seq), unique (aggregate_id, aggregate_version)'),
      ('event_positions', 'unique (position), unique (event_seq)')
    ) as kind (name, unique_in_day)
    cross join lateral (
      select (at at time zone 'UTC')::date as day from events_before where kind.name = 'events'
      union select (placed_at at time zone 'UTC')::date from placed_before where kind.name = 'event_positions'
      union select (now() at time zone 'UTC')::date + ahead from generate_series(-1, 7) as ahead
    ) as days
  loop
    execute format('create table %I partition of %I (%s) for values from (%L) to (%L)',
      cut.name || to_char(cut.day, '_YYYYMMDD'), cut.name, cut.unique_in_day, cut.day || ' 00:00Z', cut.day + 1 || ' 00:00Z');
    execute format('create trigger %I before truncate on %I for each statement execute function refuse_change()',
      cut.name || to_char(cut.day, '_YYYYMMDD') || '_no_truncate', cut.name || to_char(cut.day, '_YYYYMMDD'));
    execute format('alter table %I enable always trigger %I',
      cut.name || to_char(cut.day, '_YYYYMMDD'), cut.name || to_char(cut.day, '_YYYYMMDD') || '_no_truncate');
  end loop;
end $$;

insert into events (id, aggregate_id, aggregate_version, topic, project_id, body, at, tx, seq)
select id, aggregate_id, aggregate_version, topic, project_id, body, at, tx, seq
from events_before;
insert into event_positions (position, placed_at, event_seq, event_at, project_id)
select position, placed_at, event_seq, event_at, project_id
from placed_before;

-- Where the order stands; kept here because the newest day may be empty and the others dropped.
alter table event_sequencer
  add column position bigint not null default 0,
  add column placed_at timestamptz not null default '-infinity';
update event_sequencer
set position = coalesce((select max(position) from placed_before), 0),
  placed_at = coalesce((select max(placed_at) from placed_before), '-infinity');

alter table event_sinks
  drop constraint event_sinks_kind_check,
  add constraint event_sinks_kind_check check (kind in ('webhook', 'nats')),
  -- No event behind the sink's position was placed before this time.
  add column placed_at timestamptz not null default '-infinity',
  -- Ahead of the position, and delivered already: other things' events, while one waits to be tried again.
  add column settled bigint[] not null default '{}',
  -- Which event the attempts are about.
  add column attempts_position bigint;
update event_sinks s
set placed_at = coalesce((select max(p.placed_at) from placed_before p where p.position <= s.position), '-infinity');
-- A later migration of the same transaction may alter the table only when no trigger waits.
set constraints event_sinks_recorded immediate;
set constraints event_sinks_recorded deferred;

drop table event_positions_before, events_before;

-- Invariant 3, as before. The event is of this very transaction, whose time is its time: so one day is looked at, and no other.
-- And whoever places events looks for them no further back than a day. A plan that was made while the day was young must not read
-- all of it later.
create or replace function demand_record() returns trigger language plpgsql set enable_seqscan = off as $$
begin
  if tg_op = 'UPDATE' then
    if new.state = old.state then
      return null;
    end if;
    if new.version <> old.version + 1 then
      raise exception '% %: a state change must raise version by one', tg_table_name, new.id;
    end if;
  end if;
  if clock_timestamp() - now() > interval '12 hours' then
    raise exception '% %: the transaction was open for half a day', tg_table_name, new.id;
  end if;
  if not exists (
    select from events where at = now() and aggregate_id = new.id and aggregate_version = new.version
  ) then
    raise exception '% % version %: the change has no event', tg_table_name, new.id, new.version;
  end if;
  if not exists (select from audit_log where target_id = new.id and target_version = new.version) then
    raise exception '% % version %: the change has no audit row', tg_table_name, new.id, new.version;
  end if;
  return null;
end $$;

-- Asked before a day is dropped, with the end of the day. Held are events without a position, and those that an active sink still
-- has to deliver; the positions are kept for as long as there are events of their time.
create function events_held(ends_at timestamptz) returns boolean language sql stable as $$
  select exists (
    select from events e
    where e.at < ends_at
      and e.tx >= (select below_tx from event_sequencer)
      and not exists (select from event_positions p where p.event_seq = e.seq and p.placed_at >= e.at)
  ) or exists (
    select from event_positions p
    where p.event_at < ends_at
      and p.position > (select min(s.position) from event_sinks s where s.state = 'active')
      and p.placed_at >= (select min(s.placed_at) from event_sinks s where s.state = 'active')
  )
$$;
create function event_positions_held(ends_at timestamptz) returns boolean language sql stable as $$
  select exists (select from events where at < ends_at) or exists (
    select from event_sinks
    where state = 'active' and placed_at < ends_at and position < (select position from event_sequencer)
  )
$$;
