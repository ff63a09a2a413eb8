"Two processes see half of the images each, and both report the numbers of all (EVAL-22, DIST)."
import os
import subprocess
import sys
import textwrap

PROGRAM = '''
    import sys, numpy as np, torch.distributed as dist
    from learndet.evaluation.average_precision import flat_ground_truth
    from learndet.evaluation.evaluator import Evaluator
    rank, port = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    r = np.random.RandomState(0)
    rows = []
    for i in range(7):
        xy = r.randint(0, 60, (3, 2)); rows.append(dict(img_id=i, bboxes=np.concatenate([xy, xy + r.randint(9, 40, (3, 2))], 1), labels=r.randint(0, 2, 3)))
    gt = flat_ground_truth(rows, ('a', 'b'))
    samples = [dict(img_id=i, pred_instances=dict(bboxes=o['bboxes'] + r.randint(-6, 7, (3, 4)), scores=r.rand(3), labels=o['labels'])) for i, o in enumerate(rows)]
    def judge(part):
        e = Evaluator([dict(type='CocoMetric'), dict(type='VOCMetric')])
        e.set_ground_truth(gt), e.process(part)
        return e.evaluate(7)
    from learndet.engine.distributed import alone
    with alone(): whole = judge(samples)
    mine = (samples + samples[:1])[rank::2]                       # padded to the same length
    assert judge(mine) == whole, rank
    dist.barrier()
    print('same', round(whole['coco/bbox_mAP'], 3))
'''


def test_both_processes_report_the_numbers_of_all():
    from learndet.engine.distributed import free_port
    port = str(free_port())
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'}
    both = [subprocess.Popen([sys.executable, '-c', textwrap.dedent(PROGRAM), str(rank), port], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=env) for rank in range(2)]
    try: outs = [p.communicate(timeout=120) for p in both]
    finally:
        for p in both: p.kill()
    for p, (out, err) in zip(both, outs): assert p.returncode == 0 and 'same' in out, err[-2000:]
