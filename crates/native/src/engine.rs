//! `Engine`: put, get and flush of pages from Python, the base of `ramster.Pool` and `ramster.Cache`. Covers arguments and outcomes.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use ramster_core::backend::{Backend, Get, Keep, Put, Refusal};
use ramster_core::handle::{Class, Handle, ObjectId, PoolId, PoolKind};
use ramster_core::page::{PAGE_BYTES, Page};
use ramster_engine::{Directives, Durability, Options};

use crate::errors::{self, ConfigError, StartError};
use crate::fork;
use crate::plain::{from_dict, from_plain, to_dict};

#[pyclass(module = "ramster._native", frozen)]
pub struct Engine {
    engine: Arc<ramster_engine::Engine>,
}

/// 24 bytes, little-endian words.
type ObjectBytes = [u8; 24];

fn object_id(bytes: &ObjectBytes) -> ObjectId {
    let (words, _) = bytes.as_chunks::<8>();
    ObjectId([0, 1, 2].map(|index| u64::from_le_bytes(words[index])))
}

fn object_bytes(object: &[u8]) -> PyResult<ObjectId> {
    let bytes: &ObjectBytes = object
        .try_into()
        .map_err(|_| PyValueError::new_err(format!("object: {} bytes given, an object id has 24", object.len())))?;
    Ok(object_id(bytes))
}

fn refusal(refusal: Refusal) -> PyErr {
    StartError::new_err(match refusal {
        Refusal::StoreFull => "the store is full",
        Refusal::PoolFull => "the pool is full",
        Refusal::NoSuchPool => "no such pool",
        Refusal::TooManyPools => "there are too many pools; close one",
    })
}

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let options: Options = from_dict("options", options)?;
        if !fork::set_up() {
            return Err(StartError::new_err("libc takes no more fork handlers"));
        }
        let engine = py.detach(|| ramster_engine::Engine::start_for_pools(&options));
        let engine = engine.map_err(|error| StartError::new_err(error.to_string()))?;
        fork::note(&engine);
        Ok(Engine { engine })
    }

    #[pyo3(signature = (kind, durability = None))]
    fn new_pool(&self, kind: &str, durability: Option<&Bound<'_, PyAny>>) -> PyResult<u32> {
        let kind = match kind {
            "ephemeral" => PoolKind::Ephemeral,
            "persistent" => PoolKind::Persistent,
            other => return Err(PyValueError::new_err(format!("kind: {other:?} is neither \"ephemeral\" nor \"persistent\""))),
        };
        let class = match durability {
            None => Class::of(kind),
            Some(_) if kind == PoolKind::Ephemeral => {
                return Err(PyValueError::new_err("durability: pages of ephemeral pools may vanish, and have one copy"));
            }
            Some(durability) => {
                let durability = from_plain::<Durability>("durability", durability)?;
                self.engine.class_of(durability).map_err(|error| ConfigError::new_err(error.to_string()))?
            }
        };
        self.engine.new_pool_of(class).map(|pool| pool.0).map_err(refusal)
    }

    fn put(&self, py: Python<'_>, pool: u32, object: &[u8], index: u32, data: &[u8]) -> PyResult<bool> {
        let handle = Handle { pool: PoolId(pool), object: object_bytes(object)?, index };
        let page: &Page = data
            .try_into()
            .map_err(|_| PyValueError::new_err(format!("data: {} bytes given, a page has {PAGE_BYTES}", data.len())))?;
        match py.detach(|| self.engine.put(&handle, page)) {
            Put::Stored => Ok(true),
            Put::Rejected(Refusal::NoSuchPool) => Err(PyValueError::new_err("pool: no such pool, or it was destroyed")),
            Put::Rejected(_) => Ok(false),
        }
    }

    #[pyo3(signature = (pool, object, index, keep = true))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        pool: u32,
        object: &[u8],
        index: u32,
        keep: bool,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let handle = Handle { pool: PoolId(pool), object: object_bytes(object)?, index };
        let keep = if keep { Keep::Keep } else { Keep::Free };
        let mut page: Page = [0; PAGE_BYTES];
        match py.detach(|| self.engine.get(&handle, keep, &mut page)) {
            Ok(Get::Hit) => Ok(Some(PyBytes::new(py, &page))),
            Ok(Get::Miss) => Ok(None),
            Err(lost) => Err(errors::lost(&lost)),
        }
    }

    fn flush_page(&self, py: Python<'_>, pool: u32, object: &[u8], index: u32) -> PyResult<()> {
        let handle = Handle { pool: PoolId(pool), object: object_bytes(object)?, index };
        py.detach(|| self.engine.flush_page(&handle));
        Ok(())
    }

    fn flush_object(&self, py: Python<'_>, pool: u32, object: &[u8]) -> PyResult<()> {
        let object = object_bytes(object)?;
        py.detach(|| self.engine.flush_object(PoolId(pool), object));
        Ok(())
    }

    fn destroy_pool(&self, py: Python<'_>, pool: u32) {
        py.detach(|| self.engine.destroy_pool(PoolId(pool)));
    }

    fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, &py.detach(|| self.engine.snapshot()))
    }

    fn set_directives(&self, directives: &Bound<'_, PyDict>) -> PyResult<()> {
        let directives = from_dict::<Directives>("directives", directives)?;
        self.engine.set_directives(&directives).map_err(|error| ConfigError::new_err(error.to_string()))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.engine.close());
    }
}
