"""The address of the schedules in `.keras` files that were saved before they moved."""

from keras_effnetv2.recipes.schedule import StagedSchedule, WarmupSchedule

__all__ = ["StagedSchedule", "WarmupSchedule"]
