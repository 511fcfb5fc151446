//! [`TokenLease`]: tokens that one worker takes by the batch and spends without touching the limiter.

use super::error::{Denied, LimitError};
use super::limiter::RateLimiter;
use super::reservation::Refund;
use crate::core::bucket::{Short, Slot};
use crate::error::Invalid;
use crate::time::{Ticker, Timestamp};

/// A worker's own stock of tokens, taken `k` at a time. From [`RateLimiter::lease`].
///
/// It goes by the coarse clock of a [`Ticker`], so spending a token of the stock costs a load, a comparison and a
/// subtraction, and no clock reading. Somebody has to tick it; while nobody does, its time stands still, and so does the
/// filling of the bucket as leases see it.
///
/// The law, for any number of leases beside any other use of the limiter: in any window of length *t* at most
/// `burst + rate · (t + tick)` tokens, *tick* the longest time between two ticks. A token of the stock is lost when the
/// bucket would have been full without it; so nothing is saved up beyond the burst, however many leases there are.
/// What [`pause_until`](RateLimiter::pause_until) and other changes of the settings say holds for a lease from the next tick
/// on. Dropped, a lease gives its stock back if nobody has taken tokens since; else the stock is lost.
///
/// ```
/// use batchyard::{Clock, Rate, RateLimiter, Ticker};
/// let limiter = RateLimiter::builder(Rate::per_second(1_000_000).burst(1000)).clock(Clock::os()).build()?;
/// let ticker = Ticker::new(limiter.clock());
/// let mut lease = limiter.lease(64, &ticker)?;
/// for _ in 0..100 {
///     lease.try_acquire(1)?;
/// }
/// assert_eq!(lease.stock(), 28);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TokenLease<'a> {
    limiter: &'a RateLimiter,
    ticker: &'a Ticker,
    /// How many are taken at a time.
    k: u64,
    /// What is left of the last piece.
    stock: u64,
    piece: Option<Slot>,
    /// The tick at which the stock was looked at last.
    seen: Timestamp,
}

impl RateLimiter {
    /// A lease for one worker, that takes `k` tokens at a time and goes by `ticker`, which is ticked by this limiter's
    /// [clock](Self::clock). It is empty to begin with.
    ///
    /// # Errors
    ///
    /// [`LimitError::Invalid`]: `k` is zero or above the burst; `order` is by priority, which a stock would bypass; the
    /// `ticker` goes by another clock, whose readings mean nothing here.
    ///
    /// ```
    /// use batchyard::{Clock, Rate, RateLimiter, Ticker};
    /// let limiter = RateLimiter::builder(Rate::per_second(10).burst(5)).clock(Clock::os()).build()?;
    /// let ticker = Ticker::new(limiter.clock());
    /// assert!(limiter.lease(6, &ticker).is_err());
    /// # Ok::<(), batchyard::limit::LimitError>(())
    /// ```
    pub fn lease<'a>(&'a self, k: u64, ticker: &'a Ticker) -> Result<TokenLease<'a>, LimitError> {
        let burst = self.burst();
        if k == 0 || k > burst {
            return Err(Invalid::new("k", format!("must be from 1 to the burst, {burst}")).into());
        }
        if self.order() != super::Order::Fifo {
            return Err(Invalid::new("order", "a stock of tokens would go before those who wait").into());
        }
        if !self.uses_clock(ticker.clock()) {
            return Err(Invalid::new("ticker", "goes by another clock than the limiter").into());
        }
        Ok(TokenLease { limiter: self, ticker, k, stock: 0, piece: None, seen: ticker.recent() })
    }
}

impl TokenLease<'_> {
    /// Spends `n` tokens of the stock, or takes more from the limiter for it. Never waits.
    ///
    /// # Errors
    ///
    /// [`Denied`]: stock and bucket together hold too few. Nothing is spent. What it says counts both, as of the last
    /// tick: so many tokens remain to this lease, and after `ready_in` it has those that were asked for, if nobody comes in
    /// between. (It may be told up to its stock too late, when others took tokens after the stock was taken.)
    #[inline]
    pub fn try_acquire(&mut self, n: u64) -> Result<(), Denied> {
        if n <= self.stock && self.ticker.recent() == self.seen {
            self.stock -= n;
            return Ok(());
        }
        self.look_and_take(n)
    }

    /// How many tokens are in stock.
    pub fn stock(&self) -> u64 {
        self.stock
    }

    #[cold]
    fn look_and_take(&mut self, n: u64) -> Result<(), Denied> {
        let bucket = self.limiter.bucket();
        let now = self.ticker.recent();
        // The first tick not before the ticker's time, which was rounded down from one that had come.
        let raw = self.limiter.clock().raw_at(now);
        if now != self.seen {
            self.seen = now;
            let ahead = self.piece.as_ref().map_or(Some(0), |piece| bucket.ahead(|| raw, piece, self.stock));
            match ahead {
                Some(stock) => self.lose(self.stock - stock),
                None => self.give_back(),
            }
        }
        let Some(more) = n.checked_sub(self.stock).filter(|more| *more > 0) else {
            self.stock -= n;
            return Ok(());
        };
        let take = |n| bucket.reserve(|| raw, n, raw);
        let taken = take(more.max(self.k)).map(|piece| (piece, more.max(self.k))).or_else(|short| {
            let (Short::Until { left, .. } | Short::NeverFits { left }) = short;
            // All that is there, or, if that is too little, the answer for what is asked.
            let n = left.max(more);
            take(n).map(|piece| (piece, n))
        });
        let counts = self.limiter.inner().counts.as_ref();
        match taken {
            Ok((piece, got)) => {
                if let Some(counts) = counts {
                    counts.granted(got);
                }
                // The old stock went first, and what is left is the end of the new piece.
                self.stock = got - more;
                self.piece = Some(piece);
                Ok(())
            }
            Err(short) => {
                if let Some(counts) = counts {
                    counts.denied();
                }
                Err(self.denied(raw, n, short))
            }
        }
    }

    /// Why `n` are not to be had at `raw`, where the bucket is `short` of what is missing to the stock.
    fn denied(&self, raw: u64, n: u64, short: Short) -> Denied {
        let bucket = self.limiter.bucket();
        // If all had to come from the bucket.
        let mut all = bucket.behind(|| raw, 0, n);
        if let (Short::Until { tick: all, .. }, Short::Until { tick: Some(missing), .. }) = (&mut all, short)
        {
            // What of the stock will have been made up for by then is lost.
            let stays = |piece| bucket.ahead(|| missing, piece, self.stock) == Some(self.stock);
            if self.stock == 0 || self.piece.as_ref().is_some_and(stays) {
                *all = Some(missing);
            }
        }
        let mut denied = self.limiter.inner().denied(all);
        denied.remaining += self.stock;
        denied
    }

    fn give_back(&mut self) {
        if let Some(piece) = self.piece.take().filter(|_| self.stock > 0) {
            // Not exact where somebody took a piece behind it: lost then.
            if self.limiter.bucket().cancel_part(&piece, self.stock) {
                if let Some(counts) = &self.limiter.inner().counts {
                    counts.given_back(self.stock, Refund::Exact);
                }
                self.stock = 0;
            }
        }
        self.lose(self.stock);
    }

    fn lose(&mut self, lost: u64) {
        self.stock -= lost;
        if let Some(counts) = self.limiter.inner().counts.as_ref().filter(|_| lost > 0) {
            counts.given_back(lost, Refund::Dropped(lost));
        }
    }
}

impl Drop for TokenLease<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}
