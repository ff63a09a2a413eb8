"""Write golden_mmdet_assigners_b.json: what MMDetection 3.3.0 answers to a few of the cases.

    LEARNDET_MMDET=FOLDER python tests/parity/make_golden_mmdet_assigners_b.py
"""
import json
import warnings
from pathlib import Path

import mmdet_assigner_cases_b as cases
import mmdet_reference

RULES = ('atss', 'atss_alpha', 'atss_regions', 'sim_ota', 'task_aligned', 'soft_label', 'soft_label_masks', 'hungarian', 'hungarian_masks',
         'topk_hungarian')
SEEDS = (0, 1, 2, 3, 6, 7, 8, 12, 13, 19, 25)

if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    mmdet_reference.load()
    golden = {name: {seed: cases.theirs(name, cases.case(seed)).gt_inds.tolist() for seed in SEEDS} for name in RULES}
    costs = {name: [[round(v, 4) for v in cases.their_cost(name, options, cases.case(2))[:6].flatten().tolist()] for options in each]
             for name, each in cases.COSTS.items()}
    text = json.dumps(dict(assigned=golden, costs=costs)).replace('}, "', '},\n"')
    (Path(__file__).parent / 'golden_mmdet_assigners_b.json').write_text(text + '\n', encoding='utf-8')
