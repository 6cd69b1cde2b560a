"""CIFAR-100: 50,000 training and 10,000 test images, of 100 fine or 20 coarse classes."""

from pathlib import Path

from normlab.config import DataConfig
from normlab.data import cifar
from normlab.data.cifar.layouts import cifar100
from normlab.data.dataset import Dataset
from normlab.errors import UsageError

SPELLING = "cifar100[:coarse]"
PUBLIC = True
HUB_NAME = "uoft-cs/cifar100"
MIRRORABLE = True
HAS_IMAGE_FILES = HAS_COLUMNS = False
FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree
orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum
rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train
trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
COARSE = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
household_furniture insects large_carnivores large_man-made_outdoor_things
large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals
non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""
BY_LABELS = {
    "": cifar100("cifar100", "fine", tuple(FINE.split())),
    "coarse": cifar100("cifar100:coarse", "coarse", tuple(COARSE.split())),
}


def load(config: DataConfig, data_root: Path | None) -> Dataset:
    """Loads it with its fine labels, or with the coarse ones.

    Raises:
        UsageError: Other labels are asked for.
        DataError: As in `normlab.data.cifar.load`.
    """
    if config.place not in BY_LABELS:
        raise UsageError(f"no data set {config.dataset!r}: there are cifar100 and cifar100:coarse")
    return cifar.load(BY_LABELS[config.place], data_root)


def needs_download() -> bool:
    """Whether `load` would download it, without a data root."""
    return cifar.needs_download(BY_LABELS[""])
