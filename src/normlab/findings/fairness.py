"""What arms differ in besides the normalization, and which one their settings may favour."""

import dataclasses
from collections.abc import Sequence

from normlab import recipes
from normlab.findings.groups import Group
from normlab.network import zoo
from normlab.recipes import Recipe
from normlab.study import tuning
from normlab.study.plan import Arm
from normlab.study.record import Study
from normlab.wording import by_name, listed, rounded_setting, spaced


def differing_recipes(study: Study, group: Group) -> list[str]:
    """What the arms differ in besides the normalization."""
    differing: list[str] = []
    scaled: list[str] = []
    searched = tuning.fields(study.config)
    all_searched = True  # whether this study searched all that differs
    for field in dataclasses.fields(Recipe):
        values = {arm.norm: getattr(arm.recipe, field.name) for arm in group.arms}
        if len(set(values.values())) > 1:
            here = field.name in searched
            texts = by_name(settings_by_norm(group.arms, field.name))
            text = f"{spaced(field.name)} ({texts}{', searched here' if here else ''})"
            rescaled = field.name == "learning_rate" and group.setting.batch_size is not None
            (scaled if rescaled and not here else differing).append(text)
            all_searched &= here or rescaled
    sentences = []
    if differing:
        recorded = "" if all_searched else ", as recorded in normlab"
        sentences.append(
            "Besides the normalization, the arms differ in what was found best for each on "
            f"held-out images{recorded}: {listed(differing)}."
        )
    sentences += [*_made_with_bn(study, group), *_layout_chosen_with(group)]
    if scaled:
        sentences.append(
            f"The arms differ in their {scaled[0]}: each is its recipe's, scaled to the compared "
            "batch size."
        )
    if "lr" not in study.config.tune:
        given = study.config.learning_rate
        if study.config.batch_sizes:
            rate = "the recipe's" if given is None else f"{given:g} at the recipe's batch size"
            sentences.append(
                f"The learning rate is {rate}, scaled with the square root of the batch size "
                "(Hoffer, Hubara & Soudry 2017)."
            )
        if len(group.arms) > 1 and not all(map(_has_own_settings, group.arms)):
            sentences.append(
                "One learning rate was tried. Another may suit one normalization better than the "
                "others: --tune lr searches it for each."
            )
    return sentences


def _has_own_settings(arm: Arm) -> bool:
    """Whether an arm is trained with the settings that a search found for its normalization."""
    found = recipes.tuned_settings(arm.config.recipe or "", arm.norm)
    return found is not None and not arm.config.untuned


def _made_with_bn(study: Study, group: Group) -> list[str]:
    """Whether others are trained with a recipe that was made with bn, and what that may favour."""
    name = group.arms[0].config.recipe or ""
    norms = [arm.norm for arm in group.arms]
    if name not in recipes.MADE_WITH_BN or len(norms) < 2:
        return []
    text = f"The recipe {name} was made with bn"
    left_out = [
        arm.norm
        for arm in group.arms
        if arm.config.untuned and recipes.tuned_settings(name, arm.norm)
    ]
    if left_out:
        text += f", and the settings found best for {listed(left_out)} are left out"
    if "bn" not in norms:
        return [f"{text}."]
    text += ": this may favour bn"
    if all(map(_has_own_settings, group.arms)):
        text += " in every setting that was not searched for each normalization"
    elif study.config.tune:
        searched = listed([*dict.fromkeys(tuning.KNOBS[w].label for w in study.config.tune)])
        text += f" in all settings but the {searched}"
    return [f"{text}."]


def _layout_chosen_with(group: Group) -> list[str]:
    """With which normalizations the layout of a named network was chosen."""
    known = zoo.ZOO.get(group.setting.network)
    if known is None or not known.chosen_with or len(group.arms) < 2:
        return []
    text = f"The layout of {group.setting.network} was chosen with {known.chosen_with}"
    alone = known.chosen_with == "bn" and any(arm.norm == "bn" for arm in group.arms)
    return [f"{text} alone: this too may favour bn." if alone else f"{text}."]


def settings_by_norm(arms: Sequence[Arm], field: str) -> dict[str, str]:
    """A setting of the recipe as text, for each normalization."""
    return {arm.norm: rounded_setting(getattr(arm.recipe, field)) for arm in arms}
