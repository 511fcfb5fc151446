-- A journal as version 1 of the schema had it, written by that version: batch `numbers`, cancelled and closed in an orderly
-- way. Of its items 0, 1, 6 and 7 are done, 2 and 5 dead, 3 is skipped, 4 waits for its second attempt and has kept a step,
-- 8 to 11 are pending. The checksums are those of the rows.
PRAGMA journal_mode = WAL;
BEGIN;
PRAGMA application_id = 1652126308;
PRAGMA user_version = 1;
CREATE TABLE owner (            -- a process that held the journal
  id         INTEGER PRIMARY KEY,
  uid        TEXT NOT NULL UNIQUE, -- random; in the environment of its children
  pid        INTEGER NOT NULL,
  boot       TEXT NOT NULL,        -- which start of the machine
  started_ms INTEGER NOT NULL,
  ended_ms   INTEGER               -- null: it holds it still, or died
) STRICT;
INSERT INTO owner VALUES(1,'a57ef98a65592f7e86b00932ea9b2f30',4242,'',1700571133404,1700571133408);
CREATE TABLE batch (
  id          INTEGER PRIMARY KEY,
  name        TEXT NOT NULL,
  parameters  TEXT NOT NULL,
  processor   TEXT NOT NULL,       -- what runs its items, with its version: another one is refused
  version     TEXT NOT NULL,
  run         INTEGER NOT NULL,    -- how often it was submitted
  sealed      INTEGER NOT NULL,    -- 0: the submission is under way, or was killed
  next_seq    INTEGER NOT NULL,
  next_result INTEGER NOT NULL,
  claimed_to  INTEGER NOT NULL,    -- items of this run below this number may have been started
  total       INTEGER NOT NULL,
  done        INTEGER NOT NULL,
  dead        INTEGER NOT NULL,
  skipped     INTEGER NOT NULL,
  paused      INTEGER NOT NULL,
  status      TEXT,                -- how its last run ended; null: it has not
  created_ms  INTEGER NOT NULL,
  ended_ms    INTEGER,
  sum         INTEGER NOT NULL,    -- of all up to `skipped`
  UNIQUE (name, parameters)
) STRICT;
INSERT INTO batch VALUES(1,'numbers','','squares','1',1,1,12,7,0,12,4,2,1,0,'"cancelled"',1700571133405,1700571133408,7898268245893964634);
CREATE TABLE item (
  id        INTEGER PRIMARY KEY,   -- batch << 40 | seq
  batch     INTEGER GENERATED ALWAYS AS (id >> 40) VIRTUAL,
  seq       INTEGER GENERATED ALWAYS AS (id & 1099511627775) VIRTUAL,
  key       TEXT NOT NULL,
  run       INTEGER NOT NULL,      -- the submission that named it last
  queued_ms INTEGER NOT NULL,
  parent    INTEGER,               -- the item that submitted it
  payload   TEXT NOT NULL,         -- JSON
  sum       INTEGER NOT NULL
) STRICT;
INSERT INTO item VALUES(1099511627776,'key 0',1,1700571133405,NULL,'0',5247799086919729344);
INSERT INTO item VALUES(1099511627777,'key 1',1,1700571133405,NULL,'1',9106791475208930500);
INSERT INTO item VALUES(1099511627778,'key 2',1,1700571133405,NULL,'2',544809650803448856);
INSERT INTO item VALUES(1099511627779,'key 3',1,1700571133405,NULL,'3',-1387321738124688250);
INSERT INTO item VALUES(1099511627780,'key 4',1,1700571133405,NULL,'4',-9016357434236215539);
INSERT INTO item VALUES(1099511627781,'key 5',1,1700571133405,NULL,'5',-2047349802983484441);
INSERT INTO item VALUES(1099511627782,'key 6',1,1700571133405,NULL,'6',-9017786886381326161);
INSERT INTO item VALUES(1099511627783,'key 7',1,1700571133405,NULL,'7',8893737019914421489);
INSERT INTO item VALUES(1099511627784,'key 8',1,1700571133405,NULL,'8',68759771759324349);
INSERT INTO item VALUES(1099511627785,'key 9',1,1700571133405,NULL,'9',7535043667785484518);
INSERT INTO item VALUES(1099511627786,'key 10',1,1700571133405,NULL,'10',-5095775284032506554);
INSERT INTO item VALUES(1099511627787,'key 11',1,1700571133405,NULL,'11',-8830484668948695277);
CREATE TABLE retry (               -- items with something behind them that have not ended
  item      INTEGER PRIMARY KEY,
  epoch     INTEGER NOT NULL,      -- number of the next attempt, written before it starts
  tries     INTEGER NOT NULL,      -- failures that count
  lost      INTEGER NOT NULL,      -- attempts whose process died
  crashes   INTEGER NOT NULL,      -- those of them that had the process to themselves
  deferrals INTEGER NOT NULL,
  due_ms    INTEGER NOT NULL,
  suspect   INTEGER NOT NULL,      -- 1: in hand when a process died; runs alone
  owner     INTEGER NOT NULL,      -- who has claimed it, written before it starts; 0: nobody
  sum       INTEGER NOT NULL
) STRICT;
INSERT INTO retry VALUES(1099511627780,2,1,0,0,0,1700571134176,0,0,-2857856415931750719);
CREATE TABLE error (               -- why attempts failed
  item    INTEGER NOT NULL,
  epoch   INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  kind    TEXT NOT NULL,
  message TEXT NOT NULL,
  place   TEXT,
  at_ms   INTEGER NOT NULL,
  sum     INTEGER NOT NULL,
  PRIMARY KEY (item, epoch)
) STRICT, WITHOUT ROWID;
INSERT INTO error VALUES(1099511627778,1,1,'fatal','2 is bad',NULL,1700571133406,6716220313852118938);
INSERT INTO error VALUES(1099511627779,1,1,'skipped','3 is left out',NULL,1700571133406,-5337575102197351859);
INSERT INTO error VALUES(1099511627780,1,1,'failed','not yet',NULL,1700571133407,664949346665381412);
INSERT INTO error VALUES(1099511627781,1,1,'fatal','5 is bad',NULL,1700571133407,7370131376392570669);
CREATE TABLE result (
  id       INTEGER PRIMARY KEY,    -- batch << 40 | n, in the order of completion
  item     INTEGER NOT NULL UNIQUE,
  kind     TEXT NOT NULL,          -- done, dead, skipped
  reason   TEXT,                   -- of the dead
  epoch    INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  wait_us  INTEGER NOT NULL,
  run_us   INTEGER NOT NULL,
  ended_ms INTEGER NOT NULL,
  output   TEXT,                   -- JSON, of the done
  sum      INTEGER NOT NULL
) STRICT;
INSERT INTO result VALUES(1099511627776,1099511627777,'done',NULL,1,1,447,9,1700571133406,'"1 squared is 1"',7260323384790847078);
INSERT INTO result VALUES(1099511627777,1099511627778,'dead','fatal',1,1,455,2,1700571133406,NULL,-4300306373672783202);
INSERT INTO result VALUES(1099511627778,1099511627779,'skipped','skipped',1,1,457,14,1700571133406,NULL,-7339312102751743711);
INSERT INTO result VALUES(1099511627779,1099511627776,'done',NULL,1,1,289,22,1700571133406,'"0 squared is 0"',-795681157812960480);
INSERT INTO result VALUES(1099511627780,1099511627782,'done',NULL,1,1,1151,12,1700571133406,'"6 squared is 36"',-5044396651424107227);
INSERT INTO result VALUES(1099511627781,1099511627783,'done',NULL,1,1,1162,1,1700571133406,'"7 squared is 49"',9144772924544141611);
INSERT INTO result VALUES(1099511627782,1099511627781,'dead','fatal',1,1,1680,11,1700571133407,NULL,5428587626809148666);
CREATE TABLE step (                -- what attempts of open items have achieved
  item   INTEGER NOT NULL,
  name   TEXT NOT NULL,
  output TEXT NOT NULL,            -- JSON
  sum    INTEGER NOT NULL,
  PRIMARY KEY (item, name)
) STRICT, WITHOUT ROWID;
INSERT INTO step VALUES(1099511627780,'made','"step of 4"',-5062815695897168981);
CREATE TABLE piece (               -- what attempts have left besides their result: large, or of a failed one
  id    INTEGER PRIMARY KEY,
  item  INTEGER NOT NULL,
  name  TEXT NOT NULL,
  n     INTEGER NOT NULL,          -- pieces of one name follow one another
  epoch INTEGER NOT NULL,          -- the attempt
  bytes BLOB NOT NULL,
  sum   INTEGER NOT NULL,
  UNIQUE (item, name, n)
) STRICT;
CREATE TABLE child (               -- the last process that each worker has started for an item
  owner       INTEGER NOT NULL,
  worker      INTEGER NOT NULL,
  pgid        INTEGER NOT NULL,
  start_ticks INTEGER NOT NULL,    -- tells a process from a later one of the same number
  item        INTEGER NOT NULL,
  PRIMARY KEY (owner, worker)
) STRICT, WITHOUT ROWID;
CREATE TABLE mark (                -- how far a reader has come
  batch  INTEGER NOT NULL,
  reader TEXT NOT NULL,
  at     INTEGER NOT NULL,
  PRIMARY KEY (batch, reader)
) STRICT, WITHOUT ROWID;
CREATE TABLE control (             -- what other processes ask of the owner
  id      INTEGER PRIMARY KEY,
  batch   INTEGER NOT NULL,
  verb    TEXT NOT NULL,
  at_ms   INTEGER NOT NULL,
  done_ms INTEGER,
  answer  TEXT
) STRICT;
CREATE UNIQUE INDEX item_key ON item (batch, key);
CREATE INDEX item_parent ON item (parent) WHERE parent IS NOT NULL;
CREATE VIEW items AS               -- for people: one row an item, with its state
SELECT b.name AS batch, i.seq, i.key, i.payload,
       CASE WHEN r.kind IS NOT NULL THEN r.kind WHEN t.item IS NOT NULL THEN 'again'
            WHEN i.seq < b.claimed_to AND i.run = b.run THEN 'claimed' ELSE 'pending' END AS state,
       coalesce(r.attempts, t.epoch - 1, 0) AS attempts, r.reason, r.output,
       datetime(r.ended_ms / 1000.0, 'unixepoch') AS ended
FROM item i JOIN batch b ON b.id = i.batch LEFT JOIN result r ON r.item = i.id LEFT JOIN retry t ON t.item = i.id
;
COMMIT;
