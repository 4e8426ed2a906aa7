"""What the store in PostgreSQL says: tables, policies and statements, all of them constant or made of columns.

The table of a store is a schema. Its name travels as a value, the search path of one transaction; inside it the tables
are always called the same, so no statement has a name or a value put into its text.
"""

import struct
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ClauseElement, Executable

from workbench.errors import StoreError
from workbench.retrieval.store import ChunkRow

K1, B = 1.2, 0.75  # of BM25, as in Lucene and LanceDB
_EPOCH = date(2000, 1, 1)  # of PostgreSQL's days

# Nobody logs in as these: a session takes one for a transaction. Another database may make them at the same moment.
ROLES = """
do $$ begin
  begin
    if to_regrole('workbench_search') is null then create role workbench_search nologin; end if;
    if to_regrole('workbench_write') is null then create role workbench_write nologin; end if;
  exception when duplicate_object or unique_violation then null;
  end;
  begin
    set local role workbench_search;
    set local role workbench_write;
  exception when insufficient_privilege or invalid_parameter_value then
    grant workbench_search, workbench_write to current_user;
  end;
  reset role;
end $$
"""

CREATE = (
    "alter table chunks alter column vector set storage plain",  # else vectors are fetched out of line: 3 times slower
    "create index chunks_document on chunks (tenant_id, doc_id)",
    "create index chunks_document_type on chunks (tenant_id, document_type)",
    "create index chunks_date on chunks (tenant_id, date)",
    """create table terms (tenant_id text not null, term text not null, chunk_id text not null, tf int not null,
       dl int not null, primary key (tenant_id, term, chunk_id) include (tf, dl))""",
    "create index terms_chunk on terms (tenant_id, chunk_id)",
    "create table tenants (tenant_id text primary key, n bigint not null, total bigint not null)",
    "create table settings (dimension int not null, text_index jsonb, version bigint not null)",
    """do $$
    declare name text;
    begin
      foreach name in array array['chunks', 'terms', 'tenants'] loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format('create policy one_tenant on %I for select to workbench_search
          using (tenant_id = current_setting(''workbench.tenant'', true))', name);
        execute format('create policy named_tenants on %I for all to workbench_write
          using (tenant_id = any (array(select jsonb_array_elements_text(
            nullif(current_setting(''workbench.tenants'', true), '''')::jsonb))))', name);
        execute format('grant select on %I to workbench_search', name);
        execute format('grant select, insert, update, delete, truncate on %I to workbench_write', name);
      end loop;
      execute format('grant usage on schema %I to workbench_search, workbench_write', current_schema());
    end $$""",
    "create policy counts on tenants for select to workbench_write using (true)",
    "grant select on settings to workbench_search",
    "grant select, update on settings to workbench_write",
)

BEGIN_SETTINGS = "insert into settings values (:dimension, null, 0)"

_COLUMNS = "chunk_id, tenant_id, doc_id, document_type, date, position, n_chunks, content_hash, text, vector"
STAGE = (
    """create temp table incoming (chunk_id text, tenant_id text, doc_id text, document_type text, date date,
       position int, n_chunks int, content_hash text, text text, vector vector) on commit drop""",
    "create temp table incoming_terms (like terms) on commit drop",
)
COPY = "copy incoming from stdin (format binary)"

# Accents go as they do in LanceDB's index: decomposed, then without marks.
_WORDS = r"""to_tsvector(cast(:config as regconfig),
  case when :fold then regexp_replace(normalize(given, NFKD), '[\u0300-\u036f]', '', 'g') else given end)"""
_COUNTED = """
select tenant_id, lexeme, chunk_id, tf, cast(sum(tf) over (partition by chunk_id) as int)
from (select tenant_id, chunk_id, text as given from source) as rows,
  lateral (select lexeme, greatest(coalesce(cardinality(positions), 1), 1) as tf from unnest(words)) as counted
""".replace("words", _WORDS)
NEW_TERMS = "insert into incoming_terms " + _COUNTED.replace("source", "incoming")
ALL_TERMS = "insert into terms " + _COUNTED.replace("source", "chunks")
ALL_COUNTS = """update tenants set total = coalesce(
  (select sum(tf) from terms where terms.tenant_id = tenants.tenant_id), 0)"""
ASKED = "select lexeme as term from (select cast(:words as text) as given) as asked, unnest(" + _WORDS + ")"

# Chunks that hold any of the words asked, with their BM25, by the counts of the tenant alone.
_MATCHED = f"""asked as materialized ({ASKED}),
matched as (select t.chunk_id, t.tf, t.dl, count(*) over (partition by t.term) as df
  from terms as t join asked on asked.term = t.term where t.tenant_id = :tenant),
counts as (select sum(cast(n as float8)) as n, sum(cast(total as float8)) / sum(cast(n as float8)) as average
  from tenants where tenant_id = :tenant),
scored as (select chunk_id, sum(ln(1 + (n - df + 0.5) / (df + 0.5)) * tf * float8 '{K1 + 1}'
    / (tf + float8 '{K1}' * (float8 '{1 - B}' + float8 '{B}' * dl / average))) as score
  from matched cross join counts group by chunk_id)"""
BM25 = f"with {_MATCHED} select chunk_id, score from scored order by score desc limit :most"

# Both legs and their fusion. Scores are rounded and ties ordered as `tenant.best`, `tenant.bm25_of` and
# `tenant.cosine_of` do it: the ranking must be that of two searches that are fused here.
_BEST = """select doc_id, score, row_number() over (order by score desc, doc_id collate "C", position) as place"""
_LEG = """select doc_id, max(score) as score, row_number() over (order by min(place)) as place
  from {} where place <= :chunks and doc_id <> :itself group by doc_id"""
_LEGS = f"""with {_MATCHED},
best_words as (
  select chunk_id, cast(round(cast(score as numeric), 6 - cast(floor(log(score)) as int)) as float8) as score
  from scored where score >= float8 '0.999999' * (
    select min(score) from (select score from scored order by score desc limit :chunks) as best)),
words_of_chunks as ({_BEST} from best_words join chunks using (chunk_id) where tenant_id = :tenant),
best_vectors as (
  select doc_id, position, round(greatest(-1, least(1, 1 - (vector <=> cast(:point as vector)))) * 1e6) / 1e6 as score
  from chunks where tenant_id = :tenant order by score desc fetch first :chunks rows with ties),
vectors_of_chunks as ({_BEST} from best_vectors),
words as (select * from ({_LEG.format("words_of_chunks")}) as leg where place <= :depth),
vectors as (select * from ({_LEG.format("vectors_of_chunks")}) as leg where place <= :depth)"""
_FUSED = """ select doc_id, coalesce(words.part, 0) + coalesce(vectors.part, 0) as score
from ({}) as words full join ({}) as vectors using (doc_id) order by score desc, doc_id collate "C" limit :k"""
_RECIPROCAL = "select doc_id, float8 '1' / (cast(:rank_constant as int) + place) as part from {}"
_SCALED = """select doc_id, {} * case when high > low then (score - low) / (high - low) else 1 end as part
from {}, (select min(score) as low, max(score) as high from {}) as range"""
FUSED_RANKS = _LEGS + _FUSED.format(*(_RECIPROCAL.format(leg) for leg in ("words", "vectors")))
FUSED_SCORES = _LEGS + _FUSED.format(
    _SCALED.format("(1 - cast(:weight as float8))", "words", "words"),
    _SCALED.format("cast(:weight as float8)", "vectors", "vectors"),
)

MERGE = (
    """update tenants set n = tenants.n - old.n from (
         select tenant_id, count(*) as n from chunks join incoming using (chunk_id, tenant_id) group by tenant_id
       ) as old
       where tenants.tenant_id = old.tenant_id""",
    """with gone as (delete from terms using incoming
         where terms.tenant_id = incoming.tenant_id and terms.chunk_id = incoming.chunk_id
         returning terms.tenant_id, terms.tf)
       update tenants set total = tenants.total - old.total
       from (select tenant_id, sum(tf) as total from gone group by tenant_id) as old
       where tenants.tenant_id = old.tenant_id""",
    "insert into chunks ("
    + _COLUMNS
    + ") select "
    + _COLUMNS
    + """ from incoming order by chunk_id
       on conflict (chunk_id) do update set tenant_id = excluded.tenant_id, doc_id = excluded.doc_id,
         document_type = excluded.document_type, date = excluded.date, position = excluded.position,
         n_chunks = excluded.n_chunks, content_hash = excluded.content_hash, text = excluded.text,
         vector = excluded.vector""",
    "insert into terms select * from incoming_terms",
    """insert into tenants (tenant_id, n, total)
       select tenant_id, count(*),
         coalesce((select sum(tf) from incoming_terms as t where t.tenant_id = i.tenant_id), 0)
       from incoming as i group by tenant_id
       on conflict (tenant_id) do update set n = tenants.n + excluded.n, total = tenants.total + excluded.total""",
)
FORGET = """with gone as (delete from terms where tenant_id = :tenant and chunk_id = any(:ids) returning tf)
       update tenants set n = n - cardinality(cast(:ids as text[])),
         total = total - (select coalesce(sum(tf), 0) from gone) where tenant_id = :tenant"""
SET = """select set_config(name, value, true)
from unnest(cast(:names as text[]), cast(:values as text[])) as given (name, value)"""
EXTENSION = """select n.nspname, e.extversion from pg_extension as e join pg_namespace as n on n.oid = e.extnamespace
where e.extname = 'vector'"""
VECTOR_INDEX_READY = """select count(*) from pg_index as i join pg_class as c on c.oid = i.indexrelid
where c.relname = :name and c.relnamespace = to_regnamespace(:schema) and i.indisvalid"""


class VectorType(sa.types.UserDefinedType[str]):
    """pgvector's ``vector(n)``; values go in and come out as text."""

    cache_ok = True

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def get_col_spec(self, **_: Any) -> str:
        """Return the type as SQL names it."""
        return f"vector({self.dimension})"


def chunks_table(dimension: int, schema: str | None = None) -> sa.Table:
    """Return the table of chunks; without a schema it is that of the search path."""
    text = sa.Text
    return sa.Table(
        "chunks",
        sa.MetaData(schema=schema),
        sa.Column("chunk_id", text, primary_key=True),
        sa.Column("tenant_id", text, nullable=False),
        sa.Column("doc_id", text, nullable=False),
        sa.Column("document_type", text, nullable=False),
        sa.Column("date", sa.Date),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("n_chunks", sa.Integer, nullable=False),
        sa.Column("content_hash", text, nullable=False),
        sa.Column("text", text, nullable=False),
        sa.Column("vector", VectorType(dimension), nullable=False),
    )


class Explain(Executable, ClauseElement):
    """The plan of a statement in place of its rows."""

    inherit_cache = False

    def __init__(self, statement: sa.Select[Any]) -> None:
        self.statement = statement


@compiles(Explain)
def _explain_sql(explain: Explain, compiler: Any, **given: Any) -> str:
    return f"EXPLAIN (COSTS OFF) {compiler.process(explain.statement, **given)}"


_COPY_HEAD, _COPY_END = b"PGCOPY\n\xff\r\n\x00" + bytes(8), b"\xff\xff"


def copied_sql_rows(rows: Sequence[ChunkRow], vectors: npt.NDArray[np.float32]) -> bytes:
    """Return rows as COPY reads them in its binary format.

    Raises
    ------
    StoreError
        If a text is none, or holds NUL.
    """
    told = b"".join(_copied_sql_row(row, vector) for row, vector in zip(rows, vectors, strict=True))
    return _COPY_HEAD + told + _COPY_END


def _copied_sql_row(row: ChunkRow, vector: npt.NDArray[np.float32]) -> bytes:
    """One row: number of fields, then each with its length."""
    day = None if row.date is None else struct.pack(">i", (row.date - _EPOCH).days)
    fields = [
        *(_copied_sql_cell(row, name) for name in ("chunk_id", "tenant_id", "doc_id", "document_type")),
        day,
        *(struct.pack(">i", number) for number in (row.position, row.n_chunks)),
        *(_copied_sql_cell(row, name) for name in ("content_hash", "text")),
        struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes(),
    ]
    told = (struct.pack(">i", -1) if f is None else struct.pack(">i", len(f)) + f for f in fields)
    return struct.pack(">h", len(fields)) + b"".join(told)


def _copied_sql_cell(row: ChunkRow, name: str) -> bytes:
    value: object = getattr(row, name)
    if not isinstance(value, str) or "\x00" in value:
        why = "holds NUL, which text in PostgreSQL cannot" if isinstance(value, str) else f"is {value!r}, no text"
        raise StoreError(f"{name!r} of document {row.doc_id!r:.60} {why}")
    return value.encode()
