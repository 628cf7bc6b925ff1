"""Tables as people have them: what is odd in them, and what must come out.

Each case is a small synthetic table, written as a file, trained on a part and scored on the rest.
"""

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="tables need pyarrow (the extra [cli])")
from nnaccel.tabular.fit import Fit
from nnaccel.tabular.model import Model
from nnaccel.tabular.settings import Settings
from nnaccel.tabular.sources import pop_weights, read
from nnaccel.tabular.survey import Rules
from nnaccel.tabular.tables import TableWarning

RNG = np.random.default_rng(7)
N = 400
AGE = RNG.integers(18, 80, N)
INCOME = np.round(RNG.uniform(2e4, 1e5, N), 2)
DISCOUNT = np.round(RNG.uniform(0, 60, N), 1)
PRICE = np.round(INCOME / 500 * (1 - DISCOUNT / 200) + AGE, 2)
GONE = RNG.permutation(N)[:12]  # the rows without a discount


def written(path, columns, separator=","):
    """A file of these columns, whose cells are written as they are given."""
    rows = zip(*columns.values(), strict=True)
    lines = [separator.join(columns), *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def trained(source, target, rules=None, **settings):
    """One plain network: what is asked here is how a table is read, not how well it is learnt."""
    chosen = Settings(**{"members": 1, "numbers": "plain"} | settings)
    fit = Fit(read(source, target), chosen, rules=rules or Rules(), kernels="numpy")
    for _ in fit:
        pass
    model = fit.model()
    return fit, model, fit.evaluate(model)


def price(tmp_path, **other):
    columns = {"age": AGE, "income": INCOME, "discount": DISCOUNT, "price": PRICE} | other
    return written(tmp_path / "price.csv", columns)


def gone(mark):
    cells = DISCOUNT.astype(object)
    cells[GONE] = mark
    return cells


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """The scores where the missing discounts are blank."""
    return trained(price(tmp_path_factory.mktemp("control"), discount=gone("")), "price")[2]


@pytest.mark.parametrize(
    ("mark", "shown"),
    [("?", r"'\?'"), ("-", "'-'"), (".", r"'\.'"), (" ", "a blank"), ("missing", "'missing'")],
)
def test_marks_for_missing_are_named_and_cost_nothing(tmp_path, control, mark, shown):
    with pytest.warns(TableWarning, match=f"'discount': taken as missing: {shown} .12 times"):
        scores = trained(price(tmp_path, discount=gone(mark)), "price")[2]
    assert scores == control
    assert scores["R²"] > 0.98


def test_money_and_percent(tmp_path):
    cells = {
        "income": [f'"${v:,.2f}"' for v in INCOME],
        "discount": [f"{v}%" for v in DISCOUNT],
        "price": [f'"${1000 * v:,.2f}"' for v in PRICE],
    }
    fit, _, scores = trained(price(tmp_path, **cells), "price")
    assert fit.target.task == "regression"
    assert scores["R²"] > 0.98


def test_decimal_commas_and_nameless_columns(tmp_path):
    numbers = {"income": INCOME, "discount": gone(-200.0), "price": PRICE}
    cells = {name: [f"{v}".replace(".", ",") for v in values] for name, values in numbers.items()}
    columns = {"age": AGE, **cells}
    path = tmp_path / "d.csv"
    text = written(path, columns, ";")
    path.write_text(path.read_text().replace("\n", ";;\n"))
    with pytest.warns(TableWarning, match=r"'discount': taken as missing: -200 .12 times"):
        fit, _, scores = trained(text, "price")
    assert fit.features.columns == ("age", "income", "discount")
    assert scores["R²"] > 0.98


@pytest.mark.parametrize("code", [-9999, -200, 999, "1e20"])
def test_codes_for_missing(tmp_path, control, code):
    with pytest.warns(TableWarning, match="'discount': taken as missing: .*--missing none keeps"):
        scores = trained(price(tmp_path, discount=gone(code)), "price")[2]
    assert scores == control
    kept = trained(price(tmp_path, discount=gone(code)), "price", Rules(codes=()), epochs=1)[0]
    assert "discount missing" not in kept.features.names


def test_codes_that_look_like_numbers_stay_apart(tmp_path):
    codes = RNG.choice(["001", "010", "02134", "2134"], N)
    effect = {"001": 10, "010": -10, "02134": 30, "2134": 0}
    y = np.round(AGE / 10 + [effect[c] for c in codes], 3)
    path = written(tmp_path / "c.csv", {"branch": codes, "age": AGE, "y": y})
    fit, model, scores = trained(path, "y")
    assert scores["R²"] > 0.98
    assert fit.features.categorical[0].levels == ("001", "010", "02134", "2134")
    new = written(tmp_path / "new.csv", {"branch": ["2134", "02134"], "age": [50, 50]})
    low, high = model.predict(read(new, need_target=False).data)
    assert high - low == pytest.approx(30, abs=3)


def test_a_new_file_is_read_as_the_model_says(tmp_path):
    flags = RNG.choice(["TRUE", "FALSE", "UNKNOWN"], N)
    tickets = np.where(
        np.arange(N) % 3 == 0, "PC 17", np.array([f"{i % 9 + 1}00" for i in range(N)])
    )
    y = np.round(AGE / 10 + 5 * (flags == "TRUE") + 8 * (tickets == "300"), 3)
    columns = {"smoker": flags, "ticket": tickets, "age": AGE, "y": y}
    _, model, scores = trained(written(tmp_path / "f.csv", columns), "y")
    assert scores["R²"] > 0.98
    new = {"smoker": ["TRUE", "TRUE"], "ticket": ["300", "200"], "age": ["40", ""]}
    data = read(written(tmp_path / "new.csv", new), need_target=False).data
    with pytest.warns(TableWarning, match=r"missing values where the fit saw none.*age \(1 row"):
        found = model.predict(data)
    assert found[0] == pytest.approx(17, abs=1.5)
    one = written(tmp_path / "one.csv", {name: cells[:1] for name, cells in new.items()})
    np.testing.assert_allclose(
        model.predict(read(one, need_target=False).data), found[:1], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993")),
        (["1234567890123456789", "1234567890123456001"], None),
        (["Severe", "None", "Mild"], ("Mild", "None", "Severe")),
        (["Yes", "NA"], ("NA", "Yes")),
        (["1", "0"], (0, 1)),
        (["5000000000", "7"], (7, 5000000000)),
    ],
)
def test_labels_are_what_the_file_holds(tmp_path, labels, classes):
    y = np.array(labels)[(AGE > 48).astype(int) if len(labels) == 2 else AGE % 3]
    path = written(tmp_path / "l.csv", {"age": AGE, "y": y})
    _, model, _ = trained(path, "y", task="classification", epochs=2)
    assert model.target.classes == (classes or tuple(sorted(labels)))
    model.save(tmp_path / "m.safetensors")
    found = Model.load(tmp_path / "m.safetensors").predict(read(path, "y").data)
    assert {str(label) for label in found} <= {*labels}


def test_zeros_of_both_signs_are_one_class(tmp_path):
    path = written(
        tmp_path / "z.csv",
        {"age": AGE, "y": np.where(AGE > 48, "1.0", np.where(AGE % 2, "0.0", "-0.0"))},
    )
    _, model, _ = trained(path, "y", task="classification", epochs=2)
    assert model.target.classes == (0, 1)


def test_stray_marks_and_spellings_among_labels_are_named(tmp_path):
    y = np.where(AGE > 48, "1", "0").astype(object)
    y[:6] = "?"
    with (
        pytest.warns(TableWarning, match=r"target 'y': '\?' \(6 times\) taken as missing"),
        pytest.warns(TableWarning, match="6 rows without a 'y' are left out"),
    ):
        fit, _, scores = trained(written(tmp_path / "q.csv", {"age": AGE, "y": y}), "y")
    assert (fit.target.classes, sum(fit.rows.values())) == ((0, 1), N - 6)
    assert scores["accuracy"] > 0.95
    model = trained(written(tmp_path / "d.csv", {"age": AGE, "y": AGE > 48}), "y", epochs=1)[1]
    new = read(written(tmp_path / "new.csv", {"age": [20, 70], "y": ["False", "?"]}), "y")
    assert model.target.parse(new.y).to_pylist() == [False, None]
    y = np.where(AGE > 48, np.where(AGE % 2, "cat ", "cat"), "dog")
    with pytest.warns(
        TableWarning, match="differ in blanks or case only.*'cat ' and 'cat'|'cat' a"
    ):
        trained(written(tmp_path / "s.csv", {"age": AGE, "y": y}), "y", epochs=1)


def test_a_few_quoted_marks_are_labels(tmp_path):
    y = np.where(AGE > 48, '"yes"', '"no"').astype(object)
    y[:5], y[5:10] = '"NA"', "?"
    path = written(tmp_path / "q.csv", {"age": AGE, "y": y})
    with (
        pytest.warns(TableWarning, match=r"target 'y': '\?' \(5 times\) taken as missing"),
        pytest.warns(TableWarning, match="5 rows without a 'y' are left out"),
    ):
        fit = trained(path, "y", epochs=1)[0]
    assert fit.target.classes == ("NA", "no", "yes")
    new = read(written(tmp_path / "new.csv", {"age": [20, 70], "y": ["NA", "?"]}), "y")
    with pytest.warns(TableWarning, match=r"target 'y': '\?' \(1 time\) taken as missing"):
        assert fit.target.parse(new.y).to_pylist() == ["NA", None]


def test_row_numbers_and_identifiers_are_dropped(tmp_path):
    order = np.argsort(PRICE)  # a file sorted by its target, so that row numbers would tell it
    columns = {
        "Id number": np.arange(1, N + 1),
        "RowCode": RNG.permutation(N) + 1000,
        "PassengerId": RNG.permutation(10 * N)[:N],
        "age": AGE[order],
        "price": PRICE[order],
    }
    with pytest.warns(TableWarning, match="--keep") as warned:
        fit = trained(written(tmp_path / "i.csv", columns), "price", epochs=1)[0]
    assert set(fit.features.dropped) == {"Id number", "PassengerId"}
    assert len(warned) == 2
    kept = trained(str(tmp_path / "i.csv"), "price", Rules(keep=("Id number", "PassengerId")))
    assert kept[0].features.dropped == {}


def test_dates_and_times_are_features(tmp_path):
    days = RNG.integers(0, 700, N)
    moments = np.datetime64("2022-01-01") + days.astype("m8[D]")
    season = np.round(np.sin(2 * np.pi * days / 365.25) + days / 700, 4)
    forms = {
        "iso": [str(d) for d in moments],
        "us": [f"{str(d)[5:7]}/{str(d)[8:]}/{str(d)[:4]}" for d in moments],
        "german": [f"{str(d)[8:]}.{str(d)[5:7]}.{str(d)[:4]}" for d in moments],
    }
    found = [
        trained(written(tmp_path / f"{name}.csv", {"day": day, "y": season}), "y")[2]
        for name, day in forms.items()
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["R²"] > 0.98
    minutes = RNG.integers(0, 1440, N)
    clock = {"at": [f"{m // 60:02}:{m % 60:02}" for m in minutes], "y": np.round(minutes / 60, 3)}
    assert trained(written(tmp_path / "t.csv", clock), "y")[2]["R²"] > 0.98
    spans = {"dur": [f"{m // 24} days {m % 24:02}:00:00" for m in minutes], "y": minutes}
    assert trained(written(tmp_path / "d.csv", spans), "y")[2]["R²"] > 0.98


def test_a_long_tail_keeps_its_resolution(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    distance, night = np.round(rng.lognormal(1, 1, 2000), 3), rng.integers(0, 2, 2000)
    fare = np.round(2.5 + 1.8 * distance + 3 * night, 2)
    path = written(tmp_path / "f.csv", {"distance": distance, "night": night, "fare": fare})
    by_default = {"members": None, "numbers": "auto"}
    fit, _, bent = trained(path, "fare", **by_default)
    assert fit.features.numeric[0].bend
    monkeypatch.setattr("nnaccel.tabular.encoding.bend", lambda z, **_: z)
    assert bent["RMSE"] < 1.2 * trained(path, "fare", **by_default)[2]["RMSE"]


def test_several_targets_and_weights(tmp_path):
    columns = {"age": AGE, "w": np.where(AGE > 48, 1, 0), "a": AGE / 2, "b": 100 - AGE}
    path = written(tmp_path / "s.csv", columns)
    _, model, scores = trained(path, ["a", "b"], Rules(drop=("w",)))
    assert scores["a: R²"] > 0.99
    assert scores["b: R²"] > 0.99
    assert set(model.predict(read(path, ["a", "b"]).data)) == {"a", "b"}
    labels = {"age": AGE, "old": AGE > 48, "even": np.where(AGE % 2, "no", "yes")}
    _, model, scores = trained(written(tmp_path / "l.csv", labels), ["old", "even"])
    assert scores["old: accuracy"] > 0.95
    model.save(tmp_path / "m.safetensors")
    again = Model.load(tmp_path / "m.safetensors")
    found = again.predict(read(str(tmp_path / "l.csv"), ["old", "even"]).data)
    assert {*found["even"]} <= {"yes", "no"}
    # Rows that weigh nothing are as if they were not there.
    y = np.where(AGE > 48, AGE, 500)
    path = written(tmp_path / "w.csv", {"age": AGE, "w": columns["w"], "y": y})
    examples = pop_weights(read(path, "y"), "w")
    fit = Fit(examples, Settings(), kernels="numpy")
    for _ in fit:
        pass
    assert fit.evaluate(fit.model())["RMSE"] < 5
    with pytest.raises(ValueError, match="weights 'y' must be finite numbers .* got '-1' in row 2"):
        pop_weights(read(written(tmp_path / "n.csv", {"x": [1, 2, 3], "y": [1, 2, -1]}), "x"), "y")


def test_queries_and_databases(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    for year in (2020, 2021):
        rows = AGE if year == 2021 else AGE[::-1]
        written(tmp_path / f"sales{year}.csv", {"age": rows, "year": [year] * N, "y": 2 * rows})
    examples = read(f"from '{tmp_path}/sales*.csv' where year > 2020", "y")
    assert examples.data.num_rows == N
    assert examples.y.to_pylist() == (2 * AGE).tolist()
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute(f"create table orders as from '{tmp_path}/sales2020.csv'")
    before = (tmp_path / "shop.duckdb").read_bytes()
    assert read(f"{tmp_path}/shop.duckdb:orders", "y").data.column_names == ["age", "year"]
    assert (tmp_path / "shop.duckdb").read_bytes() == before
    for query in ("drop table x", "create table t as select 1", "select 1; select 2"):
        with pytest.raises(ValueError, match="a source must be a single SELECT"):
            read(query, "y")
