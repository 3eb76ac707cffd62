"""Leaves out of a run of `train` what costs seconds and is no subject of a test."""

from keras_effnetv2.training import results


def leave_out_results(patch):
    """No export and no report; `patch` is a `pytest.MonkeyPatch`."""
    patch.setattr(results, "export_saved_model", lambda *args, **options: None)
    patch.setattr(results, "gather_report", lambda **contents: None)
    patch.setattr(results, "write_report", lambda report, path: None)
