"Two processes see half of the images each, and both report the numbers of all (EVAL-22, DIST)."
import os
import subprocess
import sys
import textwrap

PROGRAM = '''
    import contextlib, io, pickle, sys, types, numpy as np, torch, torch.distributed as dist
    from learndet.structures.instance_data import DetDataSample, InstanceData
    from learndet.tools.commands import KeepPredictions
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
    def judge(part, **kwargs):
        e = Evaluator([dict(type='CocoMetric', **kwargs), dict(type='VOCMetric')])
        e.set_ground_truth(gt), e.process(part)
        return e.evaluate(7)
    from learndet.engine.distributed import alone
    with alone(): whole = judge(samples)
    mine = (samples + samples[:1])[rank::2]                       # padded to the same length
    with contextlib.redirect_stdout(io.StringIO()) as said: found = judge(mine, classwise=True)
    assert {k: v for k, v in found.items() if k in whole} == whole, rank
    assert ('AP50' in said.getvalue()) == (rank == 0)             # one table, not one a process
    keeper, run = KeepPredictions(sys.argv[3]), types.SimpleNamespace(test_dataloader=types.SimpleNamespace(dataset=types.SimpleNamespace(metainfo=dict(classes='ab'))))
    for s in mine: keeper.after_test_iter(run, 0, outputs=[DetDataSample(metainfo=dict(img_id=s['img_id']), pred_instances=InstanceData(scores=torch.ones(rank + 1)))])
    keeper.after_test_epoch(run)
    dist.barrier()
    kept = pickle.loads(open(sys.argv[3], 'rb').read())           # learndet test --launcher pytorch --out
    assert [k['img_id'] for k in kept] == list(range(7)) and [len(k['pred_instances']['scores']) for k in kept] == [2, 2, 1, 2, 1, 2, 1], kept
    dist.barrier()
    print('same', round(whole['coco/bbox_mAP'], 3))
'''


def test_both_processes_report_the_numbers_of_all(tmp_path):
    from learndet.engine.distributed import free_port
    port = str(free_port())
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'GLOO_SOCKET_IFNAME': 'lo'}
    both = [subprocess.Popen([sys.executable, '-c', textwrap.dedent(PROGRAM), str(rank), port, str(tmp_path / 'found.pkl')], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, env=env) for rank in range(2)]
    try: outs = [p.communicate(timeout=120) for p in both]
    finally:
        for p in both: p.kill()
    for p, (out, err) in zip(both, outs): assert p.returncode == 0 and 'same' in out, err[-2000:]
