"""Data: the data sets that the papers train on, checked byte for byte, and a user's own images."""

from bitwright.data.catalog import Location, load, locate, names
from bitwright.data.cifar10 import INEXACT_TEST_IMAGES, InexactDataWarning, read_cifar10
from bitwright.data.dataset import Dataset
from bitwright.data.folders import DataFolderWarning, cache_folder
from bitwright.data.idx import read_idx
from bitwright.data.images import read_images
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.svhn import read_svhn
from bitwright.data.weights import load_weights

__all__ = [
    "INEXACT_TEST_IMAGES",
    "DataFolderWarning",
    "Dataset",
    "InexactDataWarning",
    "Location",
    "Preprocessing",
    "cache_folder",
    "load",
    "load_weights",
    "locate",
    "names",
    "read_cifar10",
    "read_idx",
    "read_images",
    "read_svhn",
]
