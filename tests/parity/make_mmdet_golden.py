"""Store what MMDetection 3.3 answers, for machines where it is not installed.

    LEARNDET_MMDET=folder python tests/parity/make_mmdet_golden.py --part priors
"""
import argparse
import importlib
import json
import warnings
from pathlib import Path

PARTS = dict(priors=('priors_coders_cases', 'golden_priors_coders.json'),          # the module with the cases, the file
             assigners_a=('assigners_a_cases', 'golden_assigners_a.json'))
CASES = 12                                                                      # seeds 0, 1, … of each component


def main(part):
    cases, file = PARTS[part]
    cases = importlib.import_module(cases)
    library = cases.theirs()
    golden = {name: [cases.fingerprint(run(library, seed)) for seed in range(CASES)] for name, run in cases.COMPONENTS.items()}
    lines = [f' {json.dumps(name)}: [\n' + ',\n'.join('  ' + json.dumps(case, separators=(',', ':')) for case in seeds) + ']'
             for name, seeds in golden.items()]
    (Path(__file__).parent / file).write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')
    print(file, {name: len(seeds) for name, seeds in golden.items()})


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--part', choices=PARTS, required=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        main(parser.parse_args().part)
