"""From a float model to the best variant for each device class, or a refusal.

    from pathlib import Path
    from quarterdeck_controller.optimize.data.samples import Data
    from quarterdeck_controller.optimize.optimizer import Options, optimize
    from quarterdeck_controller.optimize.profile import load_profile
    from quarterdeck_controller.optimize.write import write

    data = Data(calibration="calibration.npz", evaluation="evaluation.npz")
    profile = load_profile("board-arm64")
    result = optimize(Path("model.onnx"), data, profile, options=Options(name="cats"))
    print(result.evaluation.decision, result.evaluation.reason)
    write(result, Path("variants"))

The search decides and never touches a model: ``search.ladder`` says what to try next
and why, ``search.choose`` who wins, ``search.confirm`` holds the winner against samples
and processors that did not choose it. What touches a model are steps (``steps``), each
in a child process of its own (``sandbox``, ``child``), and their results are kept by
what went in (``search.cache``). ``controller/OPTIMIZER.md`` is the guide for people.
"""
