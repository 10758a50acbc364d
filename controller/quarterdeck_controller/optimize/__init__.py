"""From a float model to the best variant for each device class, or a refusal.

    from quarterdeck_controller.optimize.data.samples import Data, load_samples
    from quarterdeck_controller.optimize.optimizer import optimize
    from quarterdeck_controller.optimize.profile import load_profile
    from quarterdeck_controller.optimize.write import write

    data = Data(load_samples(Path("c.npz")), load_samples(Path("e.npz")))
    result = optimize(Path("model.onnx"), data, load_profile("board-arm64"))
    print(result.evaluation.decision, result.evaluation.reason)
    write(result, Path("variants"))

Deciding is pure (``choose``, ``golden``, ``score``, ``record``); what touches the model
(``source``, ``prepare``, ``calibrate``, ``quantize``, ``shrink``, ``measure``) runs in
child processes (``sandbox``, ``child``) that are asked by ``trial``; ``optimizer`` puts
the steps in order.
"""
