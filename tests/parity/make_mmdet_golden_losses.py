"""Write golden_losses.json: MMDetection 3.3's own losses on the first cases of `loss_cases.py`.

    LEARNDET_MMDET=FOLDER python tests/parity/make_mmdet_golden_losses.py

For each call of a case: the sum of the values, the sum of the gradient, and the sum of its absolute values.
"""
import json
import warnings
from pathlib import Path

from loss_cases import CASES, run
from mmdet_reference import load

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    load()
    from mmdet.models import losses
    stored = {}
    for name in CASES:
        results = [run(losses, name, seed)[0] for seed in range(6)]
        stored[name] = [[float(f'{v.item():.7g}') for terms, grad in calls for v in (sum(t.sum() for t in terms), grad.sum(), grad.abs().sum())]
                        for calls in results]
    lines = ',\n'.join(f'{json.dumps(name)}: {json.dumps(values)}' for name, values in stored.items())
    (Path(__file__).parent / 'golden_losses.json').write_text('{' + lines + '}\n')
