# What `fastflux` offers; lazy_loader reads this list at run time.
from .calibration.importance import rank_blocks as rank_blocks
from .calibration.statistics import Calibration as Calibration
from .calibration.statistics import collect_statistics as collect_statistics
from .calibration.trajectories import Trajectories as Trajectories
from .errors import FastFluxError as FastFluxError
from .io.checkpoint import load_transformer as load_transformer
from .io.checkpoint import save_transformer as save_transformer
from .io.pipelines import export_pipeline as export_pipeline
from .io.pipelines import load_pipeline as load_pipeline
from .methods.block_removal import BlockRemovalConfig as BlockRemovalConfig
from .methods.l1_norm import L1NormConfig as L1NormConfig
from .methods.linear_replacement import LinearReplacementConfig as LinearReplacementConfig
from .methods.registry import register_pruning_method as register_pruning_method
from .methods.sandwich_training import SandwichTrainingConfig as SandwichTrainingConfig
from .methods.sublayer_replacement import SublayerReplacementConfig as SublayerReplacementConfig
from .methods.width_pruning import WidthPruningConfig as WidthPruningConfig
from .models.architecture import register_architecture as register_architecture
from .models.folding import fold_ as fold_
from .models.pruned import FastFluxSD3Transformer2DModel as FastFluxSD3Transformer2DModel
from .models.pruned import FastFluxTransformer2DModel as FastFluxTransformer2DModel
from .models.pruned import ModelMixin as ModelMixin
from .models.pruned import plan_of as plan_of
from .plan import PruningPlan as PruningPlan
from .pruning import apply_plan_ as apply_plan_
from .pruning import prune_ as prune_
from .settings import CalibrationSettings as CalibrationSettings
from .settings import Place as Place
from .settings import Resources as Resources
from .workflow import prune as prune

__version__: str
