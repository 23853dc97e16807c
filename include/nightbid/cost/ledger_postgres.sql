-- The cost ledger's table. Made on first use, in one transaction.
CREATE SCHEMA IF NOT EXISTS nightbid;

CREATE TABLE nightbid.ledger (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline text NOT NULL,
    run_id text NOT NULL,
    stage text NOT NULL,
    attempt integer NOT NULL,
    job text NOT NULL,
    service text NOT NULL,
    resource text NOT NULL,
    quantity numeric NOT NULL CHECK (quantity >= 0),
    cost_here numeric NOT NULL,
    cost_cloud numeric NOT NULL,
    currency text NOT NULL,
    started timestamptz NOT NULL,
    state text NOT NULL,
    observed timestamptz NOT NULL DEFAULT now(),
    -- The same observation again is no second one.
    UNIQUE (pipeline, run_id, stage, attempt, job, service, resource, quantity, state)
);

-- How sure an observer is of how an attempt ended; as SURENESS in entries.py.
CREATE FUNCTION nightbid.sureness(state text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE state WHEN 'running' THEN 0 WHEN 'killed' THEN 1 ELSE 2 END
$$;

-- Observations that another one of the same thing makes superfluous: it is as large and as sure.
CREATE VIEW nightbid.covered AS
SELECT mine.id
FROM nightbid.ledger AS mine
WHERE EXISTS (
    SELECT
    FROM nightbid.ledger AS other
    WHERE (other.pipeline, other.run_id, other.stage, other.attempt, other.job, other.service,
           other.resource)
        = (mine.pipeline, mine.run_id, mine.stage, mine.attempt, mine.job, mine.service,
           mine.resource)
    AND other.quantity >= mine.quantity
    AND nightbid.sureness(other.state) >= nightbid.sureness(mine.state)
    AND (other.quantity, nightbid.sureness(other.state), other.id)
        > (mine.quantity, nightbid.sureness(mine.state), mine.id)
);

CREATE FUNCTION nightbid.only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND EXISTS (SELECT FROM nightbid.covered WHERE id = OLD.id) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the cost ledger only grows: % refused', TG_OP;
END $$;

CREATE TRIGGER only_grows BEFORE UPDATE OR DELETE ON nightbid.ledger
    FOR EACH ROW EXECUTE FUNCTION nightbid.only_grows();

CREATE TRIGGER never_emptied BEFORE TRUNCATE ON nightbid.ledger
    FOR EACH STATEMENT EXECUTE FUNCTION nightbid.only_grows();
