from tests.faults.conftest import *
from tests.faults.test_objects_s3 import *
from tests.faults.test_objects_s3 import lab
import time
def test_x(lab, bucket, tmp_path):
    store = f"{bucket}/out/cube.zarr"
    import collections, logging
    cnt=collections.Counter()
    class H(logging.Handler):
        def emit(self, r): cnt[r.getMessage().split('"')[1].split()[0] if '"' in r.getMessage() else '?']+=1
    lg=logging.getLogger("werkzeug"); lg.setLevel(logging.INFO); lg.addHandler(H()); lg.propagate=False
    def t(what,f):
        cnt.clear(); a=time.perf_counter(); c=time.process_time(); f(); print('##',what, round(time.perf_counter()-a,2), round(time.process_time()-c,2), dict(cnt))
    t('run', lambda: main(["run","--local",str(lab)]))
    t('open', lambda: open_cube(store).load())
    t('verify', lambda: main(["verify",store]))
    t('run2', lambda: main(["run","--local",str(lab)]))
    t('contents', lambda: contents(store))
    t('req', lambda: main(["verify","--requeue",store]))
    import cProfile, pstats
    p=cProfile.Profile(); p.runcall(main,["verify",store]); pstats.Stats(p).sort_stats('tottime').print_stats(15)
