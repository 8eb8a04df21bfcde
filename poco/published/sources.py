"""Where the published data sets come from: one table, and what to do by hand where no address is known.

An address stands here only if it is known from elsewhere than guessing, a checksum only if its publisher states it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file that can be fetched.

    Attributes:
        name: where it goes, within the folder of the data set.
        url: its address.
        checksum: ``"sha256:..."`` or ``"md5:..."`` as its publisher states it; None if it states none.
        unpack: whether it is an archive, to be unpacked into a folder of its name.
    """

    name: str
    url: str
    checksum: str | None = None
    unpack: bool = False


@dataclass(frozen=True)
class Source:
    """A published data set and where it comes from.

    Attributes:
        what: what was recorded.
        page: where a person finds it.
        licence: its licence.
        size: what is fetched or has to be, in words.
        by_hand: what to put where if it cannot be fetched.
        files: its files, in the order in which they are fetched.
        figshare: number of the figshare article whose list of files, with checksums, is taken instead.
        archives: names of the archives in that article that are wanted.
    """

    what: str
    page: str
    licence: str
    size: str
    by_hand: str
    files: tuple[File, ...] = ()
    figshare: int | None = None
    archives: tuple[str, ...] = ()

    @property
    def automatic(self) -> bool:
        """Whether it can be fetched."""
        return bool(self.files) or self.figshare is not None


_WORMS = "https://wormwideweb.org/activity/api/data/download/atanas_kim_2023-{}/"
#: The recordings with names of neurons (NeuroPAL): numbers of those of each day.
_NAMED_WORMS = {
    "2022-06-14": (1, 7, 13),
    "2022-06-28": (1, 7),
    "2022-07-15": (6, 12),
    "2022-07-20": (1,),
    "2022-07-26": (1,),
    "2022-08-02": (1,),
    "2022-12-21": (6,),
    "2023-01-05": (1, 18),
    "2023-01-06": (1, 8, 15),
    "2023-01-09": (8, 15, 22, 28),
    "2023-01-10": (7, 14),
    "2023-01-13": (7,),
    "2023-01-16": (1, 8, 15, 22),
    "2023-01-17": (1, 7, 14),
    "2023-01-18": (1,),
    "2023-01-19": (1, 8, 15, 22),
    "2023-01-23": (1, 8, 15, 21),
    "2023-03-07": (1,),
}
_TRACES = "https://storage.googleapis.com/zapbench-release/volumes/20240930/traces/"
#: The array's chunks of 512 frames x 512 neurons; what says that it is an array comes last: no part of one opens.
_TRACE_FILES = [*(f"c/{row}/{column}" for row, column in itertools.product(range(16), range(141))), "zarr.json"]

SOURCES: dict[str, Source] = {
    "andalman2019": Source(
        "19 larval zebrafish under behavioural challenge (Andalman et al. 2019)",
        page="https://doi.org/10.1016/j.cell.2019.02.037",
        licence="not known",
        size="19 files",
        by_hand="no public address of the processed files is known: ask the authors for NAME_CNMF_compressed.h5",
    ),
    "atanas2023": Source(
        "40 freely moving worms with names of neurons (Atanas, Kim et al. 2023)",
        page="https://wormwideweb.org/activity/dataset/",
        licence="see the page; others who use it state CC BY 3.0 US",
        size="about 160 MB in 40 files",
        by_hand="download the 40 recordings marked NeuroPAL, each as DATE-NN.json or DATE-NN.json.bz2",
        files=tuple(
            File(f"{day}-{number:02}.json.bz2", _WORMS.format(f"{day}-{number:02}"))
            for day, numbers in _NAMED_WORMS.items()
            for number in numbers
        ),
    ),
    "chen2018": Source(
        "15 larval zebrafish, whole brains (Chen, Mu, Hu et al. 2018)",
        page="https://janelia.figshare.com/articles/dataset/Whole-brain_light-sheet_imaging_data/7272617",
        licence="CC BY-NC 4.0",
        size="about 50 GB in 15 archives, unpacked and removed one by one",
        by_hand="download subject_1.zip to subject_18.zip without 8, 9 and 11 and unpack each: subject_K/TimeSeries.h5",
        figshare=7272617,
        archives=tuple(f"subject_{fish}.zip" for fish in range(1, 19) if fish not in (8, 9, 11)),
    ),
    "harvey": Source(
        "12 sessions of 4 mice, four cortical areas (Harvey laboratory)",
        page="https://github.com/yuvenduan/POCO",
        licence="not known",
        size="12 sessions of up to 4 files",
        by_hand="no public address is known: ask the laboratory for MOUSE/SESSION/MOUSE_AREA_df_SESSION.mat",
    ),
    "kato2015": Source(
        "5 immobilised worms (Kato et al. 2015)",
        page="https://github.com/akshey-kumar/BunDLe-Net/tree/main/data/raw",
        licence="not known",
        size="one file",
        by_hand="take NoStim_Data.mat from that repository (the original, https://osf.io/2395t, has WT_NoStim.mat, "
        "which holds another variable and is not read)",
    ),
    "zapbench": Source(
        "one larval zebrafish, whole brain under nine stimulus conditions (ZAPBench)",
        page="https://zapbench-release.storage.googleapis.com/landing.html",
        licence="CC BY 4.0",
        size="2.4 GB in 2,257 files",
        by_hand="gsutil -m cp -r gs://zapbench-release/volumes/20240930/traces 240930_traces",
        files=tuple(File(f"240930_traces/{name}", _TRACES + name) for name in _TRACE_FILES),
    ),
}
