"""Linear mixed models of neurons in sites."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from pipeline.numbers.stats.columns import numbers_of, require

#: Groups from which on the t approximation of a coefficient needs no note.
MANY = 10

#: A slope's variance over groups that is under this share of the residual's is none.
FLAT = 1e-3


@dataclass(frozen=True)
class MixedModel:
    """A linear mixed model with a random intercept per group, and a random slope for what varies within groups.

    ``coefficients`` has one row per fixed effect: estimate, se, t, df, p_value, low, high (95 %). ``slopes`` names the
    effects that have a slope per group. ``intraclass`` is the group intercept's share of the variance that the fixed
    effects leave.
    """

    formula: str
    group: str
    coefficients: pd.DataFrame
    slopes: tuple[str, ...]
    group_variance: float
    residual_variance: float
    intraclass: float
    log_likelihood: float
    n: int
    n_groups: int
    converged: bool
    notes: tuple[str, ...] = ()


def mixed_model(
    table: pd.DataFrame, formula: str, *, group: str = "site", slopes: bool = True, reml: bool = True
) -> MixedModel:
    """A linear mixed model with random effects per site or animal, fitted by statsmodels.

    An effect whose column varies within groups may differ between them. Without a slope of its own for each group that
    difference would count as evidence once per neuron; with one, it is judged by how it varies over groups. p values
    and intervals come from Student's t: groups - 1 degrees of freedom for effects that have a slope per group, those
    of the residual where slopes do not differ over ten groups or more, and groups - effects between groups for these.

    Parameters
    ----------
    table
        One row per neuron. Rows with a missing value in a column that the formula names do not count.
    formula
        The fixed part, such as ``"strf_bandwidth ~ C(area) + depth_um"``.
    group
        Column of what is independent.
    slopes
        Whether effects within groups have a random slope.
    reml
        False fits by maximum likelihood, for likelihood-ratio tests between fixed parts.

    Returns
    -------
    What statsmodels warns about arrives in ``notes``, and ``converged`` says whether to trust the fit.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng, site = np.random.default_rng(0), np.repeat(np.arange(12), 10)
    >>> table = pd.DataFrame({"site": site, "depth": rng.uniform(0, 1, 120)})
    >>> table["latency"] = 20 + 5 * table.depth + rng.standard_normal(12)[site] + rng.standard_normal(120)
    >>> found = mixed_model(table, "latency ~ depth")
    >>> found.slopes, bool(found.coefficients.loc["depth", "p_value"] < 0.001)
    (('depth',), True)
    """
    kept = _rows(table, formula, group)
    design = _design(formula, group, kept)
    response, labels = np.asarray(design.endog, dtype=float), kept[group].to_numpy()
    fixed = pd.DataFrame(np.asarray(design.exog, dtype=float), columns=design.exog_names)
    if np.ptp(response) == 0:
        raise ValueError(
            f"the response of {formula!r} is {response[0]:g} in all {len(kept)} rows; nothing varies that a"
            " model could explain; choose another column, or see why it is constant"
        )
    within = [name for name in fixed.columns if fixed[name].groupby(labels).nunique().max() > 1]
    steep = _with_slopes(fixed, within, labels) if slopes else []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = _fitted(response, fixed, labels, steep, reml)
        level = _level(fit, steep)
        if level:
            # at the edge of what a variance can be there is no standard error: fitted again without
            steep = [name for name in steep if name not in level]
            caught.clear()
            fit = _fitted(response, fixed, labels, steep, reml)
        between, residual = float(np.asarray(fit.cov_re)[0, 0]), float(fit.scale)
        coefficients = _coefficients(fit, fixed, within, steep, labels)
    notes = tuple(dict.fromkeys(str(one.message) for one in caught))
    if level:
        notes = (*notes, f"{', '.join(level)} differs between {group}s no more than the residual explains: one slope")
    left_out = [name for name in within if name not in [*steep, *level]]
    return MixedModel(
        formula=formula,
        group=group,
        coefficients=coefficients,
        slopes=tuple(steep),
        group_variance=between,
        residual_variance=residual,
        intraclass=between / (between + residual) if between + residual > 0 else float("nan"),
        log_likelihood=float(fit.llf),
        n=len(kept),
        n_groups=len(np.unique(labels)),
        converged=bool(fit.converged),
        notes=(*notes, *_cautions(len(np.unique(labels)), group, left_out)),
    )


def _rows(table: pd.DataFrame, formula: str, group: str) -> pd.DataFrame:
    """The complete rows of the columns that the formula names, refused where a random effect cannot be told."""
    require(table, [group])
    named = [column for column in table.columns if re.search(rf"(?<!\w){re.escape(str(column))}(?!\w)", formula)]
    if not named:
        raise ValueError(
            f"the formula {formula!r} names no column of the table; nothing can be fitted; the columns are"
            f" {', '.join(map(str, table.columns))}"
        )
    kept = table[[*dict.fromkeys([*named, group])]].replace([np.inf, -np.inf], np.nan).dropna().reset_index(drop=True)
    effects = formula.partition("~")[2]
    alone = [name for name in named if re.search(rf"(?<!\w){re.escape(str(name))}(?!\w)", effects)]
    alone = [name for name in alone if len(kept) and kept[name].nunique() < 2]
    if alone:
        raise ValueError(
            f"{alone[0]!r} is {kept[alone[0]].iloc[0]!r} in all {len(kept)} complete rows, so no effect of it can be"
            " told; leave it out of the formula, or take rows in which it differs"
        )
    n_groups = kept[group].nunique()
    if n_groups < 2 or n_groups == len(kept):
        raise ValueError(
            f"{len(kept)} complete rows lie in {n_groups} groups of {group!r}; a random effect is told from the"
            " residual by several rows in each of several groups; use another grouping, or ordinary least squares"
        )
    return kept


def _design(formula: str, group: str, kept: pd.DataFrame) -> MixedLM:
    """The response and the effects that the formula makes of the rows; truth values of the response are 1 and 0."""
    response = formula.partition("~")[0].strip()
    if response in kept.columns:
        kept = kept.assign(**{response: numbers_of(kept[response])})
    try:
        return MixedLM.from_formula(formula, groups=group, data=kept)
    except Exception as error:  # patsy evaluates the formula, which may raise anything
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the formula {formula!r} cannot be made of the table ({type(error).__name__}: {reason}); nothing can be"
            f" fitted; the columns are {', '.join(map(str, kept.columns))}"
        ) from error


def _with_slopes(fixed: pd.DataFrame, within: Sequence[str], labels: np.ndarray) -> list[str]:
    """The effects that vary within two groups or more, as many as a group's rows can tell apart."""
    varied = [name for name in within if (fixed[name].groupby(labels).nunique() > 1).sum() > 1]
    room = int(pd.Series(labels).value_counts().median()) - 2
    return varied if len(varied) <= max(1, room) else []


def _fitted(response: np.ndarray, fixed: pd.DataFrame, labels: np.ndarray, steep: Sequence[str], reml: bool) -> Any:
    """The fit: an intercept per group and, independent of it, the slopes.

    Powell's search is the one that finds the optimum where a variance is next to none.
    """
    names = {name: f"f{at}" for at, name in enumerate(fixed.columns)}
    data = fixed.rename(columns=names).assign(response=response, group=labels)
    slopes = {}
    for at, name in enumerate(steep):
        column = fixed[name].to_numpy(float)
        # centred and scaled, so that intercepts and slopes are of one order
        data[f"s{at}"] = (column - column.mean()) / column.std()
        slopes[f"s{at}"] = f"0 + s{at}"
    model = MixedLM.from_formula(
        f"response ~ 0 + {' + '.join(names.values())}",
        groups="group",
        vc_formula=slopes or None,
        re_formula="1",
        data=data,
    )
    for method in ("powell", "lbfgs", "nm") if slopes else (None, "powell", "nm"):
        try:
            return model.fit(reml=reml, method=method and [method])
        except np.linalg.LinAlgError:
            continue
    raise ValueError(
        "the model cannot be fitted: its matrices are singular whichever way the optimum is searched; the effects, or"
        " the groups, cannot be told apart; leave out effects, or test the means of the groups"
    )


def _level(fit: Any, steep: Sequence[str]) -> list[str]:
    """The slopes whose variance over groups is next to none."""
    singular = not np.isfinite(fit.bse_fe).all()
    floor = FLAT * fit.scale
    return [name for name, variance in zip(steep, fit.vcomp, strict=True) if singular or not variance > floor]


def _coefficients(
    fit: Any, fixed: pd.DataFrame, within: Sequence[str], steep: Sequence[str], labels: np.ndarray
) -> pd.DataFrame:
    groups = len(np.unique(labels))
    between = [name for name in fixed.columns if name not in within]
    rest = len(fixed) - len(fixed.columns) - groups + 1

    def freedom_of(name: str) -> int:
        if name in between:
            return max(1, groups - len(between))
        # of few groups, that slopes do not differ is not known well enough to count rows
        return max(1, groups - 1 if name in steep or groups < MANY else rest)

    freedom = pd.Series({name: freedom_of(name) for name in fixed.columns})
    estimate = pd.Series(np.asarray(fit.fe_params), index=fixed.columns)
    se = pd.Series(np.asarray(fit.bse_fe), index=fixed.columns)
    t = estimate / se
    half = stats.t.ppf(0.975, freedom) * se
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "t": t,
            "df": freedom,
            "p_value": 2 * stats.t.sf(np.abs(t), freedom),
            "low": estimate - half,
            "high": estimate + half,
        }
    ).rename_axis("term")


def _cautions(groups: int, group: str, without: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if groups < MANY:
        notes.append(f"{groups} {group}s are few for a mixed model: test the means of {group}s as well")
    if without:
        notes.append(
            f"no random slope for {', '.join(without)}: if that effect differs between {group}s its p value is too"
            " small; test the differences within them"
        )
    return tuple(notes)
