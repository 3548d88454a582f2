"""What a PostgreSQL statement does, told from the tree that PostgreSQL's own grammar makes of it.

Rules
1. What is not proven is refused: each kind of node, each field that holds nodes, each function and each option must be
   on a list of this file. A grammar that learns something new is refused until somebody reads it.
2. A read calls nothing but functions that change nothing, takes no lock and leaves nothing behind, also inside `WITH`.
3. A write may do no more than a transaction takes back: so the same functions, and those that count (`nextval`).
4. A name behind a dot can be a call (`(5).pg_sleep`, `pid.pg_terminate_backend` where `pid` is the row of a function):
   it is allowed only where it must be a column.

The tree is that of `standard_conforming_strings = on` and UTF-8, so whoever sends the statement sets both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

import pgparse

from holdfast.errors import BadCall
from holdfast.gateway.upstreams.sql_functions import COUNTING, PURE

LONGEST: Final = 100_000
"""Characters of a statement."""

_DEEPEST: Final = 200
"""Nodes inside one another: what is deeper is not looked through."""

KEYS: Final = "holdfast_keys"
"""The table where keys of writes are kept, in whatever schema: no call may speak of it."""

WRITES: Final = {"InsertStmt": "insert", "UpdateStmt": "update", "DeleteStmt": "delete", "MergeStmt": "merge"}

_Tree: TypeAlias = "Mapping[str, _Tree] | Sequence[_Tree] | str | int | float | bool | None"

_NODES: Final = frozenset(
    """
    A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star BitString Boolean BoolExpr BooleanTest CaseExpr
    CaseWhen CoalesceExpr CollateClause ColumnDef ColumnRef CommonTableExpr Float FuncCall GroupingFunc
    GroupingSet IndexElem Integer JoinExpr List MergeWhenClause MinMaxExpr MultiAssignRef NullTest ParamRef
    RangeFunction RangeSubselect RangeVar ResTarget RowExpr SelectStmt SetToDefault SortBy SQLValueFunction
    String SubLink TypeCast TypeName WindowDef
    """.split()
)
_FIELDS: Final = frozenset(
    """
    agg_distinct agg_filter agg_order alias arg args aliascolnames arrayBounds boolval bsval cols colnames
    coldeflist collname condition content ctecolnames ctequery ctes defresult distinctClause elements
    endOffset expr fields fromClause fromExpr funcname functions groupClause havingClause indexElems
    indirection infer indices ival fval items joinCondition join_using_alias larg lexpr lidx limitCount
    limitOffset mergeWhenClauses name names node onConflictClause orderClause over partitionClause quals rarg
    relation result returningList rexpr selectStmt sortClause source sourceRelation startOffset stmt subquery
    subselect sval targetList testexpr typeName typmods uidx useOp usingClause val values valuesLists
    whereClause windowClause withClause
    """.split()
)
"""The fields that may hold more than a scalar. Not here, so refused: `intoClause`, `lockingClause`, and many more."""

_DDL: Final = {
    "CreateStmt": "create table",
    "IndexStmt": "create index",
    "ViewStmt": "create view",
    "AlterTableStmt": "alter table",
    "RenameStmt": "rename",
    "DropStmt": "drop",
    "TruncateStmt": "truncate",
    "CommentStmt": "comment",
}
_DDL_NODES: Final = frozenset("AlterTableCmd Constraint".split()) | _NODES
_DDL_FIELDS: Final = (
    frozenset(
        """
    cmds columnDef collClause constraints def fk_attrs fk_del_set_cols indexParams keys including object
    objects pk_attrs pktable raw_expr query relations tableElts view aliases indexIncludingParams
    """.split()
    )
    | _FIELDS
)
_ALTERS: Final = frozenset(
    """AT_AddColumn AT_DropColumn AT_AlterColumnType AT_ColumnDefault AT_SetNotNull AT_DropNotNull AT_AddConstraint
    AT_DropConstraint AT_ValidateConstraint""".split()
)
_OBJECTS: Final = frozenset(
    "OBJECT_TABLE OBJECT_INDEX OBJECT_VIEW OBJECT_COLUMN OBJECT_TABCONSTRAINT OBJECT_MATVIEW".split()
)
_EXPLAINS: Final = frozenset("costs verbose format settings summary".split())


@dataclass(frozen=True, slots=True)
class Statement:
    """What a statement does. `verbs`: how it changes something (`insert`, `update`, `delete`, `merge`, `ddl`); none for
    a read. `rows`: how many rows it changes at most by itself, where its text alone says so. `returning`: whether it
    answers rows. `parameters`: how many it takes."""

    verbs: frozenset[str]
    rows: int | None
    returning: bool
    parameters: int

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return not self.verbs


def classify(text: str, *, pure: frozenset[str] = frozenset()) -> Statement:
    """What the one statement `text` does. `pure`: further functions that change nothing. Raises BadCall for all that is
    not proven, not one statement, or no statement."""
    if len(text) > LONGEST:
        raise BadCall(f"the statement has {len(text)} characters; at most {LONGEST} are read")
    if "\0" in text:
        raise BadCall("a statement cannot hold a NUL: what stands behind it would not be seen")
    (name, node) = _only(text)
    if name == "ExplainStmt":
        return _explained(node, pure)
    look = _Look(pure=pure, ddl=name in _DDL)
    if look.ddl:
        _ddl(name, node)
        look.verbs.add("ddl")
    elif name != "SelectStmt" and name not in WRITES:
        raise unproven(f"{_worded(name)} is neither a read nor a declared write")
    if look.ddl:
        look.fields(name, node, 0)
    else:
        look.node(name, node, 0)
    look.finish()
    return Statement(
        frozenset(look.verbs), _rows(name, node), not look.ddl and _answers(name, node), max(look.numbers, default=0)
    )


def _only(text: str) -> tuple[str, Mapping[str, _Tree]]:
    """The root of the one statement of a text: its name and its fields."""
    try:
        parsed = cast("list[dict[str, _Tree]]", pgparse.parse(text))  # pyright: ignore[reportUnknownMemberType]
    except Exception as error:  # noqa: BLE001 - whatever it stumbles over is not proven
        raise BadCall(f"the statement is not understood: {str(error)[:300]}") from None
    if len(parsed) != 1:
        raise BadCall(f"a call is one statement; this text holds {len(parsed)}", fix="send one statement per call")
    root = parsed[0].get("stmt")
    assert isinstance(root, Mapping), "the parser names each statement"
    ((name, node),) = root.items()
    assert isinstance(node, Mapping), "a statement has fields"
    return name, node


def _explained(node: Mapping[str, _Tree], pure: frozenset[str]) -> Statement:
    """A plan that is only made, never carried out."""
    for option in _sequence(node.get("options")):
        name = _text(_inside(option, "DefElem").get("defname"))
        if name not in _EXPLAINS:
            raise unproven(f"EXPLAIN with `{name}` may carry the statement out")
    query = node.get("query")
    if not isinstance(query, Mapping) or set(query) != {"SelectStmt"}:
        raise unproven("EXPLAIN is proven for a SELECT only")
    look = _Look(pure=pure)
    look.node("SelectStmt", query["SelectStmt"], 0)
    look.finish()
    if look.verbs:
        raise unproven("EXPLAIN is proven for a SELECT only")
    return Statement(frozenset(), None, True, max(look.numbers, default=0))


@dataclass(slots=True)
class _Look:
    """A walk over one tree. It raises at the first thing that is not proven."""

    pure: frozenset[str]
    ddl: bool = False
    verbs: set[str] = field(default_factory=set[str])
    numbers: set[int] = field(default_factory=set[int])
    behind_dots: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    calls_as_rows: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    functions: list[str] = field(default_factory=list[str])

    def node(self, name: str, node: _Tree, depth: int) -> None:
        """One node and all below it."""
        if name in WRITES:
            self.verbs.add(WRITES[name])
        elif name not in (_DDL_NODES if self.ddl else _NODES):
            raise unproven(f"{_worded(name)} is not on the list of what is proven")
        if isinstance(node, Mapping):
            self.special(name, node)
            self.fields(name, node, depth)

    def fields(self, name: str, node: Mapping[str, _Tree], depth: int) -> None:
        """What the fields of a node hold."""
        if depth > _DEEPEST:
            raise unproven(f"it is nested more than {_DEEPEST} deep")
        for key, value in node.items():
            if not isinstance(value, Mapping | list):
                continue
            if key not in (_DDL_FIELDS if self.ddl else _FIELDS):
                raise unproven(f"`{_worded(key)}` in {_worded(name)} is not on the list of what is proven")
            if key in ("relation", "pktable", "view"):
                self.relation(value, written=name in WRITES)
            self.below(value, depth + 1)

    def below(self, value: _Tree, depth: int) -> None:
        """A node, the bare fields of one, or a list of such."""
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if key[:1].isupper():
                    self.node(key, inner, depth)
                else:
                    self.fields("it", {key: inner}, depth)
        elif isinstance(value, list):
            for item in value:
                self.below(item, depth + 1)

    def special(self, name: str, node: Mapping[str, _Tree]) -> None:
        """What some nodes must fulfil beyond being listed."""
        match name:
            case "InsertStmt" if _mapping(node.get("onConflictClause")).get("action") == "ONCONFLICT_UPDATE":
                self.verbs.add("update")
            case "FuncCall":
                self.functions.append(_qualified(node.get("funcname")))
            case "RangeVar":
                self.relation(node, written=False)
            case "String" if self.ddl and node.get("sval") == KEYS:
                raise _kept()
            case "ParamRef":
                self.numbers.add(int(cast("int", node.get("number", 0))))
            case "A_Expr":
                self.operator(node.get("name"))
            case "SortBy" if node.get("useOp"):
                self.operator(node.get("useOp"))
            case "A_Indirection":
                if any(_named(part) for part in _sequence(node.get("indirection"))):
                    raise unproven("a name behind `(…).` can be the call of a function")
            case "ColumnRef":
                parts = [_named(part) for part in _sequence(node.get("fields"))]
                if len(parts) > 1 and parts[-1]:
                    self.behind_dots.append((parts[-2], parts[-1]))
            case "RangeFunction":
                self.rows_of_function(node)
            case _:
                pass

    def rows_of_function(self, node: Mapping[str, _Tree]) -> None:
        """The name under which the rows of a function go may stand for a bare value: what may follow it is kept."""
        alias = _mapping(node.get("alias"))
        name = _text(alias.get("aliasname"))
        columns = {_named(part) for part in _sequence(alias.get("colnames"))}
        for part in _sequence(node.get("coldeflist")):
            columns.add(_text(_inside(part, "ColumnDef").get("colname")))
        called = [_qualified(_inside(part, "FuncCall").get("funcname")) for part in _items_in(node.get("functions"))]
        if not name and not all(called):
            raise unproven("what stands in FROM like a function has no name of its own")
        for each in [name] if name else [full.rpartition(".")[2] for full in called]:
            self.calls_as_rows[each] = self.calls_as_rows.get(each, frozenset()) | columns

    def relation(self, node: _Tree, *, written: bool) -> None:
        """A table that is spoken of."""
        found = _mapping(node)
        found = _mapping(found.get("RangeVar")) or found
        name, schema = _text(found.get("relname")), _text(found.get("schemaname"))
        if found.get("catalogname"):
            raise unproven("a table of another database is named")
        if name == KEYS:
            raise _kept()
        system = schema in ("pg_catalog", "information_schema") or schema.startswith("pg_") or name.startswith("pg_")
        if system and (written or self.ddl):
            raise unproven(f"`{name}` belongs to the database itself")

    def operator(self, name: _Tree) -> None:
        """An operator that is called by a schema's name may be anybody's."""
        parts = [_named(part) for part in _sequence(name)]
        if len(parts) > 1 and parts[0] != "pg_catalog":
            raise unproven(f"the operator `{'.'.join(parts)}` is not on the list of what changes nothing")

    def finish(self) -> None:
        """What can be told only when all was seen."""
        allowed = PURE | COUNTING if self.verbs else PURE
        for full in self.functions:
            schema, _, name = full.rpartition(".")
            if full in self.pure or (schema in ("", "pg_catalog") and name in allowed):
                continue
            raise BadCall(
                f"the function `{full}` is not on the list of those that change nothing",
                fix="leave it out, or name it under `pure` of this database in holdfast.toml if it changes nothing",
            )
        for name, column in self.behind_dots:
            if name in self.calls_as_rows and column != name and column not in self.calls_as_rows[name]:
                raise unproven(f"`{name}.{column}` can be the call of a function")
        if self.numbers and self.numbers != set(range(1, max(self.numbers) + 1)):
            raise BadCall("the parameters are not numbered $1, $2, … without a gap")


def _ddl(name: str, node: Mapping[str, _Tree]) -> None:
    """A change of tables that a transaction takes back, and that nothing but the named tables feels."""
    if node.get("behavior") == "DROP_CASCADE":
        raise unproven("CASCADE reaches what the statement does not name")
    if node.get("concurrent") or node.get("isconcurrent"):
        raise unproven("CONCURRENTLY cannot be taken back")
    for key in ("removeType", "renameType", "objtype", "relationType"):
        if key in node and node[key] not in _OBJECTS:
            raise unproven(f"{_DDL[name]} of {_worded(_text(node[key]))} is not on the list of what is proven")
    for command in _sequence(node.get("cmds")):
        found = _inside(command, "AlterTableCmd")
        if found.get("subtype") not in _ALTERS or found.get("behavior") == "DROP_CASCADE":
            raise unproven(f"{_text(found.get('subtype'))} is not on the list of what is proven")


def _rows(name: str, node: Mapping[str, _Tree]) -> int | None:
    """How many rows `INSERT … VALUES` inserts."""
    if name != "InsertStmt" or node.get("withClause"):
        return None
    select = _inside(node.get("selectStmt"), "SelectStmt")
    return len(_sequence(select.get("valuesLists"))) or None


def _answers(name: str, node: Mapping[str, _Tree]) -> bool:
    return name == "SelectStmt" or bool(node.get("returningList"))


def _items_in(tree: _Tree) -> Iterator[_Tree]:
    """What stands in a FROM clause's `ROWS FROM (…)`: functions, casts, and what else is written like one."""
    for part in _sequence(tree):
        yield from _sequence(_inside(part, "List").get("items"))[:1]


def _qualified(tree: _Tree) -> str:
    return ".".join(_named(part) for part in _sequence(tree))


def _named(tree: _Tree) -> str:
    return _text(_inside(tree, "String").get("sval"))


def _inside(tree: _Tree, name: str) -> Mapping[str, _Tree]:
    return _mapping(_mapping(tree).get(name))


def _mapping(tree: _Tree) -> Mapping[str, _Tree]:
    return tree if isinstance(tree, Mapping) else {}


def _sequence(tree: _Tree) -> Sequence[_Tree]:
    return cast("Sequence[_Tree]", tree) if isinstance(tree, list) else ()


def _text(tree: _Tree) -> str:
    return tree if isinstance(tree, str) else ""


def _worded(name: str) -> str:
    """A name of the grammar as somebody who writes SQL knows it, roughly."""
    return {"intoClause": "SELECT INTO", "lockingClause": "FOR UPDATE"}.get(name, name.removesuffix("Stmt"))


def _kept() -> BadCall:
    return BadCall(f"`{KEYS}` is where Holdfast keeps what happened; no call may speak of it")


def unproven(why: str) -> BadCall:
    """The refusal of a statement for a reason."""
    return BadCall(
        f"the statement is not proven harmless: {why}",
        fix="use a plain SELECT, INSERT, UPDATE, DELETE or MERGE; what else is needed is for a person to do",
    )
