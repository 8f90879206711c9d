"""The kinds of map, one file each: what the config says of it, its axes and variables, its checks, its cost.

A new kind is one file in each of three folders, and nothing else is edited; the folders are read when a kind is first
looked up. For ``kind = "dynamic"``:

``plan/kinds/dynamic.py``
    A subclass of `pipeline.plan.map_config.MapConfig`, registered here::

        @KINDS.register("dynamic")
        class DynamicConfig(MapConfig):
            kind: Literal["dynamic"]
            stimuli: str | tuple[str, ...]
            components: int = Field(default=15, ge=1, le=1000)

            stimuli_are: ClassVar[Hears] = "spectrograms"  # what `stimuli` names
            cut_along: ClassVar[...] = ("neuron",)      # all stimuli inside one shard

            def axes(self, cohort, stimuli): ...        # the axes of the map, own ones with their values
            def variables(self, axes): ...              # one Variable per array: dims, units, long_name, role
            def check(self, where, cohort, stimuli): ...  # ConfigError, before any compute
            def cost(self, axes, block): ...            # seconds and bytes of one shard, by which shards are cut

``run/kinds/dynamic.py``
    A function of a `pipeline.run.job.Job`, registered with ``@COMPUTE.register("dynamic")``, that returns a
    `pipeline.run.job.Computed`: one array per variable by its suffix, over the variable's axes without ``checkpoint``,
    and the companions (health, memory) over the axes of the map's status without ``checkpoint``.

``pictures/kinds/dynamic.py``
    A function of a `pipeline.pictures.sections.outcome.Outcome`, registered with ``@SECTIONS.register("dynamic")``,
    that returns what the page shows of the map.

What follows by itself: the variables in the cube, each in whole chunks of the shard that writes it; ``<map>_status``
and ``<map>_health`` for each entry (checkpoint, neuron, and stimulus where every variable has it); resuming, verifying,
counting; ``gradmap plan``; summaries of those variables whose role is ``map``.

- A variable of the role ``map`` holds no NaN where it is done. One of the role ``measure`` may: a number that a neuron
  does not have.
- An axis of the kind's own is an `Axis` with its values, unit and meaning, and further labels along it. Where two maps
  of a cohort have an axis of one name with other values, the second is called ``<map>_<axis>``.
- What is known before any compute (the number of frames of each stimulus) is a `Variable` with ``values``.
- A kind with a key ``ensemble``, the name of a label, is computed for ensembles: further rows of the axis
  ``checkpoint``, each for checkpoints that differ in that label alone; `pipeline.run.job.Job.members` gives their
  modules. Other maps have nothing there, and nothing is missing.
"""

from pipeline.plan.map_config import MapConfig
from pipeline.registry import Registry

#: The config class of each kind of map, by the word in ``kind = "..."``.
KINDS: Registry[type[MapConfig]] = Registry("pipeline.plan.kinds", "kind of map")
