"""Data: named image sets, folders of images and arrays in memory, read once and kept as uint8.

`CATALOGUE` names the built-in sets as `relative module:callable`; a callable takes the list of folders to search and
returns an `ImageSource`. Other packages add sets by the entry-point group `clsuite.data`, one entry per set
(`name = module:callable`).
"""

CATALOGUE = {
    "digits": ".named:digits",
    "mnist": ".named:mnist",
    "fashion_mnist": ".named:fashion_mnist",
    "cifar10": ".named:cifar10",
    "cifar100": ".named:cifar100",
    "cifar10_subset": ".named:cifar10_subset",
}
