"""Tables by query: the result of any SELECT of DuckDB, and the tables of SQLite and DuckDB
files."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from nnaccel.arguments import did_you_mean
from nnaccel.devices.host_memory import memory_free
from nnaccel.tabular.tables import import_extra, listing

# First words of SQL statements, also of those that are refused, so that the error speaks of SQL.
QUERY = re.compile(
    r"\s*(?:\(\s*)*(?:from|select|with|table|values|create|drop|alter|copy|insert|update|delete|"
    r"attach|detach|pragma|install|load|set|call|explain|show|describe|export|import)\s",
    re.IGNORECASE,
)
LEAST = 256 * 2**20  # bytes that DuckDB may use at least
DATABASES = (".duckdb", ".sqlite", ".sqlite3", ".db")


def is_query(source: str) -> bool:
    """Whether a source is a query: "from 'sales/*.parquet' where year > 2020"."""
    return QUERY.match(source) is not None and not os.path.exists(source)  # too long for a Path


def run_query(query: str) -> Any:
    """The rows of one SELECT of DuckDB, in a separate database in memory, as a pyarrow table.

    Raises ValueError for anything but a single SELECT, and for an error of DuckDB in it.
    """
    with _answering(query) as connection:
        return _as_arrow(connection.sql(query))


@contextmanager
def _answering(query: str) -> Iterator[Any]:
    """A database in memory for one SELECT. Raises ValueError for any other statement, and for
    errors."""
    duckdb = import_extra("duckdb")
    with duckdb.connect() as connection:
        try:
            statements = connection.extract_statements(query)
            kinds = [statement.type for statement in statements]
            if kinds != [duckdb.StatementType.SELECT]:
                raise ValueError(
                    "a source must be a single SELECT, which writes nothing; got "
                    f"{listing(kind.name for kind in kinds) or 'no statement'}"
                )
            yield connection
        except duckdb.Error as error:
            raise ValueError(f"the query fails: {str(error).partition(chr(10))[0]}") from None


def batches_of_query(query: str, rows: int) -> Iterator[Any]:
    """The rows of a SELECT as record batches of `rows` rows, in bounded memory.

    DuckDB writes data to the disk that do not fit into its memory.   Errors are those of
    `run_query`.
    """
    with _answering(query) as connection:
        _bound(connection)
        yield from _batches(connection.sql(query), rows)


def batches_of_database(path: Path, table: str | None, rows: int) -> Iterator[Any]:
    """The rows of a table of a DuckDB file, likewise.   Errors are those of `read_database`."""
    duckdb = import_extra("duckdb")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            _bound(connection)
            yield from _batches(
                connection.sql(f"FROM {_quoted(_table(connection, path, table))}"), rows
            )
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a database: {reason}") from None


def _bound(connection: Any) -> None:
    """Limits DuckDB to a quarter of the free memory."""
    free = memory_free()
    if free is not None:
        connection.execute(f"SET memory_limit = '{max(free // 4, LEAST) // 2**20}MiB'")


def _batches(relation: Any, rows: int) -> Iterator[Any]:
    """The record batches; the method's name differs between versions of DuckDB."""
    return iter((getattr(relation, "to_arrow_reader", None) or relation.fetch_arrow_reader)(rows))


def database_of(source: str) -> tuple[Path, str | None] | None:
    """The file and the table of "shop.duckdb:orders" or "shop.sqlite"; None for other sources."""
    name, colon, table = source.rpartition(":")
    if colon and Path(name).suffix.lower() in DATABASES:
        return Path(name), table
    return (Path(source), None) if Path(source).suffix.lower() in DATABASES else None


def read_database(path: Path, table: str | None) -> tuple[str, Any]:
    """The name and the rows of a table in a DuckDB or SQLite file, which is opened read-only.

    table: None: the only table.   Raises ValueError that lists the tables.
    """
    with path.open("rb") as file:
        is_sqlite = file.read(16) == b"SQLite format 3\0"
    return (_from_sqlite if is_sqlite else _from_duckdb)(path, table)


def _from_duckdb(path: Path, table: str | None) -> tuple[str, Any]:
    duckdb = import_extra("duckdb")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            name = _table(connection, path, table)
            return name, _as_arrow(connection.sql(f"FROM {_quoted(name)}"))
    except duckdb.Error as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a database: {reason}") from None


def _table(connection: Any, path: Path, table: str | None) -> str:
    """The name of the table to read."""
    found = connection.execute("SELECT table_name FROM information_schema.tables")
    return _chosen(path, table, [row[0] for row in found.fetchall()])


def _from_sqlite(path: Path, table: str | None) -> tuple[str, Any]:
    pa = import_extra("pyarrow")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
            name = _chosen(path, table, [row[0] for row in connection.execute(query)])
            cursor = connection.execute(f"SELECT * FROM {_quoted(name)}")
            names = [column[0] for column in cursor.description]
            columns = [*zip(*cursor.fetchall(), strict=True)] or [()] * len(names)
            return name, pa.table(dict(zip(names, map(_sqlite_column, columns), strict=True)))
    except sqlite3.Error as error:
        raise ValueError(f"{path} cannot be read as a database: {error}") from None


def _sqlite_column(values: tuple[Any, ...]) -> Any:
    """A column of SQLite, whose values may differ in type. If any value is text, all become
    text."""
    pa = import_extra("pyarrow")
    if any(type(value) is str for value in values):
        values = tuple(None if value is None else str(value) for value in values)
    return pa.array(values)


def _as_arrow(relation: Any) -> Any:
    """The rows of a relation as a table; the method's name differs between versions of DuckDB."""
    fetch = getattr(relation, "to_arrow_table", None) or relation.fetch_arrow_table
    return fetch()


def _chosen(path: Path, table: str | None, tables: list[str]) -> str:
    if table is None and len(tables) == 1:
        return tables[0]
    if table in tables:
        return str(table)
    if table is None:
        raise ValueError(
            f"{path} has {len(tables)} tables; name one: {path}:TABLE; tables: {listing(tables)}"
        )
    guess = did_you_mean(table, tables)
    raise ValueError(f"{path} has no table {table!r}; tables: {listing(tables)}{guess}")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
