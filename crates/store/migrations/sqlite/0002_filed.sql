-- The last commit of the log that is in these tables.
INSERT INTO meta (name, value) VALUES ('filed', 0);
